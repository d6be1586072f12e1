// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The load-balancing filter as eBPF, attached to one interface by tcx, or by tc (clsact, direct action).
 *
 *   nlb_ingress   answers ARP and neighbour solicitations for the VIPs, makes frames for the cluster MAC the host's,
 *                 and drops what another server owns
 *   nlb_egress    masks the source of frames when the interface itself has the cluster MAC (takeover)
 *
 * It decides exactly as ruleset.py does; tests send both the same packets. The layouts of the maps are bpf.py's too.
 *
 * Every packet of the machine comes by, so the path of an accepted one is short: headers are read where they are, what
 * most packets do not need (ports, extension headers, a hash table) only those pay for that do, and arrays are looked up
 * by code that the kernel writes into the program instead of a call. Packets are written by helpers only: were there one
 * direct write, the kernel would give every packet that is shared (all of TCP's) a header of its own first.
 * Build: clang -O2 -g -target bpf -c nlb.c -o nlb.o
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define BUCKETS 60
#define SLOTS 3840              /* 64 a bucket */
#define MAX_RULES 33            /* 32 and what no rule covers: the last one, which fits everything */
#define MAX_TARGETS 256
#define TICK 20000000           /* nanoseconds; the longest tick of a kernel is 10 ms */
#define MAX_HEADERS 8           /* IPv6 extension headers; more is no packet of ours */

#define ANY_VIP 0xffffffff
#define NO_VIP 0xfffffffe       /* behind a VIP: rules for one VIP do not fit */

enum kind { VIP = 1, BEHIND, OWN };
enum protocol { TCP = 1, UDP = 2, OTHER = 4, IKE = 8 };
enum affinity { NONE, SINGLE, NETWORK };
enum state { FOREIGN, OWNED, DIRTY, QUIET };
enum counter { SEEN, ACCEPTED, ERRORS, KEPT, CLIENTS, NOT_OWNED, LEASE, DISABLED, HUSHED, ELSEWHERE, STRAY, ARPS, NDS,
	       COUNTERS };

struct settings {
	__u8 cluster_mac[6], source_mac[6];
	__u32 seed, rules;
	__u8 takeover, internal, roaming, behind, router, ports, records;
	__u8 whole; /* the first rule covers everything, with affinity single and no timeout */
	__u32 client_bits, server_bits; /* 0: there is no such prefix */
	__u32 client_prefix[4], server_prefix[4];
	__u32 first4, first4_vip, first6_vip, pad2; /* the VIP that most packets are for, and its number; 0: none */
	__u32 first6[4];
};
struct target { __u32 kind, vip; };
struct rule { __u32 vip; __u16 first, last; __u8 protocols, disabled, affinity, all_ports, linger, number, pad[2]; };
struct share { __u8 state[64]; __u64 held[BUCKETS]; };
struct activity { __u32 last[SLOTS]; };
struct tally { __u64 value[COUNTERS]; };
struct prefix { __u32 bits; __u32 address[4]; };

struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1);
	 __type(key, __u32); __type(value, struct settings); } settings SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, MAX_TARGETS);
	 __type(key, __u32[4]); __type(value, struct target); } targets SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LPM_TRIE); __uint(max_entries, MAX_TARGETS); __uint(map_flags, BPF_F_NO_PREALLOC);
	 __type(key, struct prefix); __type(value, struct target); } behind SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, MAX_RULES);
	 __type(key, __u32); __type(value, struct rule); } rules SEC(".maps");
/* Two generations; the one in use is live[1]. The other is filled, then one write changes everything at once. */
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2 * MAX_RULES);
	 __type(key, __u32); __type(value, struct share); } shares SEC(".maps");
/* [0] the end of the lease, nanoseconds of CLOCK_BOOTTIME; [1] the generation of shares in use, and above bit 32 the
 * second of that clock: agents write both with each renewal, so that the program need not read a clock. */
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2);
	 __type(key, __u32); __type(value, __u64); } live SEC(".maps");
/* The tick in which the lease was last found to run, and which lease that was. */
struct checked { __u64 tick, deadline; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1);
	 __type(key, __u32); __type(value, struct checked); } checked SEC(".maps");
/* When each slot was last accepted: [rule] without TCP, [MAX_RULES + rule] TCP of rules with extended affinity. */
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2 * MAX_RULES);
	 __type(key, __u32); __type(value, struct activity); } activity_of SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __uint(map_flags, BPF_F_NO_PREALLOC);
	 __type(key, __u32[4]); __type(value, __u8); } clients SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1);
	 __type(key, __u32); __type(value, struct tally); } counters SEC(".maps");

/* What matters of a packet. IPv4 addresses are the last word of an IPv4-mapped address. */
struct packet {
	__u32 source[4], destination[4];
	__u32 offset;           /* of the transport header */
	__u8 version, protocol;
	bool fragment, later;   /* any fragment; one that is not the first */
	bool ports;             /* source_port and destination_port were there */
	__u16 source_port, destination_port;
};

static __always_inline int count(enum counter what, int verdict)
{
	__u32 zero = 0;
	struct tally *tally = bpf_map_lookup_elem(&counters, &zero);

	if (tally)
		tally->value[what]++;
	return verdict;
}

static __always_inline __u32 rotate(__u32 x, int bits) { return (x << bits) | (x >> (32 - bits)); }

/* lookup3 as <linux/jhash.h> has it, over 1 to 6 words. */
static __always_inline __u32 jhash(const __u32 *word, int words, __u32 seed)
{
	__u32 a, b, c;

	a = b = c = 0xdeadbeef + words * 4 + seed;
	if (words > 3) {
		a += word[0]; b += word[1]; c += word[2];
		a -= c; a ^= rotate(c, 4);  c += b;
		b -= a; b ^= rotate(a, 6);  a += c;
		c -= b; c ^= rotate(b, 8);  b += a;
		a -= c; a ^= rotate(c, 16); c += b;
		b -= a; b ^= rotate(a, 19); a += c;
		c -= b; c ^= rotate(b, 4);  b += a;
		word += 3; words -= 3;
	}
	a += word[0];
	if (words > 1)
		b += word[1];
	c ^= b; c -= rotate(b, 14);
	a ^= c; a -= rotate(c, 11);
	b ^= a; b -= rotate(a, 25);
	c ^= b; c -= rotate(b, 16);
	a ^= c; a -= rotate(c, 4);
	b ^= a; b -= rotate(a, 14);
	c ^= b; c -= rotate(b, 24);
	return c;
}

static __always_inline __u32 slot_of(const struct packet *p, __u8 affinity, __u32 seed)
{
	__u32 port = p->source_port; /* network order, then zeros: how nftables pads it */
	__u32 key[5];

	if (p->version == 4) {
		key[0] = p->source[3];
		if (affinity == NETWORK)
			key[0] &= bpf_htonl(0xffffff00);
		key[1] = port;
		return ((__u64)(affinity == NONE ? jhash(key, 2, seed) : jhash(key, 1, seed)) * SLOTS) >> 32;
	}
	__builtin_memcpy(key, p->source, 16);
	if (affinity == NETWORK)
		key[2] = key[3] = 0;
	key[4] = port;
	return ((__u64)(affinity == NONE ? jhash(key, 5, seed) : jhash(key, 4, seed)) * SLOTS) >> 32;
}

static __always_inline bool equal_mac(const __u8 *a, const __u8 *b)
{
	return *(const __u32 *)a == *(const __u32 *)b && *(const __u16 *)(a + 4) == *(const __u16 *)(b + 4);
}

/* Whether the first `bits` of two IPv6 addresses are the same. */
static __always_inline bool within(const __u32 *address, const __u32 *prefix, __u32 bits)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		__u32 mask = bits >= 32 ? 0xffffffff : bits ? 0xffffffff << (32 - bits) : 0;

		if ((address[i] ^ prefix[i]) & bpf_htonl(mask))
			return false;
		bits = bits >= 32 ? bits - 32 : 0;
	}
	return true;
}

/* The header at an offset that the program may read: where it is, or made linear first. NULL: the packet is shorter. */
static __always_inline void *header(struct __sk_buff *skb, __u32 offset, __u32 size)
{
	void *data = (void *)(long)skb->data;

	if (data + offset + size <= (void *)(long)skb->data_end)
		return data + offset;
	if (bpf_skb_pull_data(skb, offset + size))
		return NULL;
	data = (void *)(long)skb->data;
	return data + offset + size <= (void *)(long)skb->data_end ? data + offset : NULL;
}

static __always_inline bool read_ipv4(struct __sk_buff *skb, struct packet *p)
{
	const struct iphdr *ip = header(skb, ETH_HLEN, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return false;
	p->version = 4;
	p->protocol = ip->protocol;
	p->offset = ETH_HLEN + ip->ihl * 4;
	p->fragment = ip->frag_off & bpf_htons(0x3fff);
	p->later = ip->frag_off & bpf_htons(0x1fff);
	p->source[2] = p->destination[2] = bpf_htonl(0xffff);
	p->source[3] = ip->saddr;
	p->destination[3] = ip->daddr;
	return true;
}

static __always_inline bool read_ipv6(struct __sk_buff *skb, struct packet *p)
{
	const struct ipv6hdr *ip = header(skb, ETH_HLEN, sizeof(*ip));
	__u8 head[8];

	if (!ip || ip->version != 6)
		return false;
	p->version = 6;
	p->protocol = ip->nexthdr;
	p->offset = ETH_HLEN + sizeof(*ip);
	__builtin_memcpy(p->source, &ip->saddr, 16);
	__builtin_memcpy(p->destination, &ip->daddr, 16);
	for (int i = 0; i < MAX_HEADERS; i++) {
		__u8 header = p->protocol;

		if (header != IPPROTO_HOPOPTS && header != IPPROTO_ROUTING && header != IPPROTO_DSTOPTS &&
		    header != IPPROTO_FRAGMENT && header != IPPROTO_AH)
			break;
		if (p->later || bpf_skb_load_bytes(skb, p->offset, head, sizeof(head)))
			break;
		p->protocol = head[0];
		if (header == IPPROTO_FRAGMENT) {
			p->fragment = true;
			p->later = (head[2] << 8 | head[3]) & 0xfff8;
			p->offset += 8;
		} else if (header == IPPROTO_AH) {
			p->offset += (head[1] + 2) * 4;
		} else {
			p->offset += (head[1] + 1) * 8;
		}
	}
	return true;
}

static __always_inline void read_ports(struct __sk_buff *skb, struct packet *p)
{
	__u16 ports[2];

	if (p->ports || p->later || (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP) ||
	    bpf_skb_load_bytes(skb, p->offset, ports, sizeof(ports)))
		return;
	p->ports = true;
	p->source_port = ports[0];
	p->destination_port = ports[1];
}

static __always_inline bool equal_address(const __u32 *a, const __u32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

/* What an address is to this interface; 0: nothing. */
static __always_inline __u32 find(const struct settings *s, const struct packet *p, __u32 *vip)
{
	struct prefix key = { .bits = 128 };
	struct target *found;

	if (p->version == 4 && s->first4 && p->destination[3] == s->first4) {
		*vip = s->first4_vip;
		return VIP;
	}
	if (p->version == 6 && s->first6[0] && equal_address(p->destination, s->first6)) {
		*vip = s->first6_vip;
		return VIP;
	}
	found = bpf_map_lookup_elem(&targets, p->destination);
	if (!found && s->behind) {
		__builtin_memcpy(key.address, p->destination, 16);
		found = bpf_map_lookup_elem(&behind, &key);
	}
	if (!found)
		return 0;
	*vip = found->vip;
	return found->kind;
}

/* Whether the lease runs. Found once a tick: the clock costs more than everything else here. Near its end, and always
 * when the lease changed, the clock itself decides. Ticks stand still while the machine sleeps, and so does its network.
 */
static __always_inline bool leased(void)
{
	__u32 zero = 0;
	__u64 *deadline = bpf_map_lookup_elem(&live, &zero);
	struct checked *last = bpf_map_lookup_elem(&checked, &zero);
	__u64 end, now, tick = bpf_jiffies64();

	if (!deadline || !last)
		return false;
	end = *deadline;
	if (last->tick == tick && last->deadline == end)
		return true;
	now = bpf_ktime_get_boot_ns();
	if (now > end)
		return false;
	if (end - now > TICK) {
		/* Whoever sees only one of the two written asks the clock himself. */
		last->deadline = end;
		last->tick = tick;
	}
	return true;
}

/* A TCP packet of a bucket that is changing hands. */
static __always_inline int settle(struct __sk_buff *skb, struct packet *p, bool quiet)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	__u32 length;
	__u8 flags;
	int state;

	read_ports(skb, p);
	if (!p->ports || p->fragment || bpf_skb_load_bytes(skb, p->offset + 13, &flags, 1))
		return count(HUSHED, TC_ACT_SHOT);
	if ((flags & 0x12) == 0x02) /* SYN without ACK */
		return quiet ? count(KEPT, TC_ACT_UNSPEC) : count(HUSHED, TC_ACT_SHOT);
	if (p->version == 4) {
		tuple.ipv4.saddr = p->source[3];
		tuple.ipv4.daddr = p->destination[3];
		tuple.ipv4.sport = p->source_port;
		tuple.ipv4.dport = p->destination_port;
		length = sizeof(tuple.ipv4);
		socket = bpf_skc_lookup_tcp(skb, &tuple, length, BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, p->source, 16);
		__builtin_memcpy(tuple.ipv6.daddr, p->destination, 16);
		tuple.ipv6.sport = p->source_port;
		tuple.ipv6.dport = p->destination_port;
		length = sizeof(tuple.ipv6);
		socket = bpf_skc_lookup_tcp(skb, &tuple, length, BPF_F_CURRENT_NETNS, 0);
	}
	if (!socket)
		return count(HUSHED, TC_ACT_SHOT);
	state = socket->state;
	bpf_sk_release(socket);
	return state == BPF_TCP_LISTEN ? count(HUSHED, TC_ACT_SHOT) : count(KEPT, TC_ACT_UNSPEC);
}

/* Notes that a slot is in use: what a former owner of its bucket keeps. */
static __always_inline int accept(const struct settings *s, const struct packet *p, __u32 rule, __u32 slot, bool linger,
				  __u32 second)
{
	bool tcp = p->protocol == IPPROTO_TCP;
	__u32 which = tcp ? MAX_RULES + rule : rule;
	struct activity *activity;

	/* Whoever pings a VIP all day has no session that its server would have to keep. */
	if (!s->records || (tcp && !linger) || slot >= SLOTS ||
	    p->protocol == (p->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return count(ACCEPTED, TC_ACT_UNSPEC);
	activity = bpf_map_lookup_elem(&activity_of, &which);
	if (activity && activity->last[slot] != second)
		activity->last[slot] = second;
	return count(ACCEPTED, TC_ACT_UNSPEC);
}

static __always_inline int owned(struct __sk_buff *skb, const struct settings *s, struct packet *p, __u32 rule,
				 __u8 affinity, bool linger)
{
	__u32 slot, bucket, which = 1, second;
	__u64 *generation = bpf_map_lookup_elem(&live, &which);
	struct share *share;
	bool held;

	if (!generation || rule >= MAX_RULES || (affinity == NONE && !p->ports))
		return count(NOT_OWNED, TC_ACT_SHOT);
	second = *generation >> 32;
	which = (*generation & 1) * MAX_RULES + rule;
	share = bpf_map_lookup_elem(&shares, &which);
	slot = slot_of(p, affinity, s->seed);
	bucket = slot >> 6;
	if (!share || bucket >= BUCKETS)
		return count(NOT_OWNED, TC_ACT_SHOT);
	held = share->held[bucket] >> (slot & 63) & 1;
	switch (share->state[bucket]) {
	case OWNED:
		return accept(s, p, rule, slot, linger, second);
	case DIRTY:
		if (p->protocol == IPPROTO_TCP && !(held && linger))
			return settle(skb, p, false);
		return held ? accept(s, p, rule, slot, linger, second) : count(NOT_OWNED, TC_ACT_SHOT);
	case QUIET:
		if (p->protocol == IPPROTO_TCP && !(held && linger))
			return settle(skb, p, true);
		return held ? count(NOT_OWNED, TC_ACT_SHOT) : accept(s, p, rule, slot, linger, second);
	}
	return count(NOT_OWNED, TC_ACT_SHOT);
}

/* Whether a rule fits a packet for a VIP. */
static __always_inline bool fits(const struct rule *rule, const struct packet *p, __u32 vip)
{
	__u16 port = bpf_ntohs(p->destination_port);

	if (rule->vip != ANY_VIP && rule->vip != vip)
		return false;
	if (p->protocol == IPPROTO_ESP)
		return rule->protocols & IKE;
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return rule->protocols & OTHER;
	if (!(rule->protocols & (p->protocol == IPPROTO_TCP ? TCP : UDP)))
		return false;
	if (p->fragment) /* of a rule for some ports it cannot be told whether later fragments are its own */
		return !rule->disabled || rule->all_ports;
	return rule->all_ports || (p->ports && rule->first <= port && port <= rule->last);
}

static __always_inline int to_vip(struct __sk_buff *skb, const struct settings *s, struct packet *p, __u32 vip,
				  bool framed)
{
	bool transport = p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP;
	struct rule *rule = NULL;
	__u8 type, affinity;

	if (framed) {
		count(SEEN, 0);
		if (skb->pkt_type != PACKET_HOST)
			bpf_skb_change_type(skb, PACKET_HOST);
	}
	if (!leased())
		return count(LEASE, TC_ACT_SHOT);
	if (p->protocol == (p->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6) && !p->later &&
	    !bpf_skb_load_bytes(skb, p->offset, &type, 1)) {
		/* Errors come from routers on the way; their sources say nothing about the flow. */
		if (p->version == 4 ? type == 3 || type == 11 || type == 12 : type >= 1 && type <= 4)
			return count(ERRORS, TC_ACT_UNSPEC);
		if (p->version == 6 && (type == 135 || type == 136))
			return TC_ACT_UNSPEC;
	}
	if (s->ports)
		read_ports(skb, p);
	for (__u32 i = 0; i < MAX_RULES; i++) {
		__u32 key = i;

		if (i > s->rules)
			break;
		rule = bpf_map_lookup_elem(&rules, &key);
		if (rule && fits(rule, p, vip))
			break;
		rule = NULL;
	}
	/* What follows is verified once, not once a rule: the verifier does not know which rule it is, and which number it
	 * has is read from the rule. */
	if (!rule)
		return count(NOT_OWNED, TC_ACT_SHOT);
	if (rule->disabled)
		return count(DISABLED, TC_ACT_SHOT);
	affinity = rule->affinity;
	if (affinity == NONE && (!transport || p->fragment))
		affinity = SINGLE;
	return owned(skb, s, p, rule->number, affinity, rule->linger);
}

static __always_inline int to_client(struct __sk_buff *skb, const struct settings *s, const struct packet *p)
{
	bool here;

	bpf_skb_change_type(skb, PACKET_HOST);
	if (!leased())
		return count(LEASE, TC_ACT_SHOT);
	if (s->roaming)
		here = bpf_map_lookup_elem(&clients, p->destination);
	else
		here = within(p->destination, s->server_prefix, s->server_bits);
	return here ? count(CLIENTS, TC_ACT_UNSPEC) : count(ELSEWHERE, TC_ACT_SHOT);
}

static __always_inline bool is_vip(const __u32 *address)
{
	struct target *found = bpf_map_lookup_elem(&targets, address);

	return found && found->kind == VIP;
}

/* Answers who-has for a VIP. Anything else about ARP is the kernel's and the responder's. */
static __always_inline int arp(struct __sk_buff *skb, const struct settings *s)
{
	__u32 target[4] = { 0, 0, bpf_htonl(0xffff), 0 }, sender[4] = { 0, 0, bpf_htonl(0xffff), 0 };
	__u32 frame[(2 + ETH_HLEN + 28) / 4]; /* two bytes on, what follows the Ethernet header is aligned */
	__u8 *data = (__u8 *)frame + 2, *body = data + ETH_HLEN;

	frame[0] = 0;
	if (bpf_skb_load_bytes(skb, 0, data, ETH_HLEN + 28))
		return TC_ACT_UNSPEC;
	/* Ethernet, IPv4, 6, 4, request */
	if (*(__u32 *)body != bpf_htonl(0x00010800) || *(__u32 *)(body + 4) != bpf_htonl(0x06040001))
		return TC_ACT_UNSPEC;
	__builtin_memcpy(&sender[3], body + 14, 4);
	__builtin_memcpy(&target[3], body + 24, 4);
	if (!is_vip(target) || is_vip(sender))
		return TC_ACT_UNSPEC;
	body[7] = 2;
	__builtin_memcpy(body + 18, body + 8, 10); /* who asked is told */
	__builtin_memcpy(body + 8, s->cluster_mac, 6);
	__builtin_memcpy(body + 14, &target[3], 4);
	__builtin_memcpy(data, body + 18, 6);
	__builtin_memcpy(data + 6, s->source_mac, 6);
	if (bpf_skb_store_bytes(skb, 0, data, ETH_HLEN + 28, 0))
		return TC_ACT_UNSPEC;
	count(ARPS, 0);
	return bpf_redirect(skb->ifindex, 0);
}

/* Answers a solicitation that carries the asker's address. Duplicate address detection is the responder's. */
static __always_inline int neighbour(struct __sk_buff *skb, const struct settings *s)
{
	__u32 target[4], source[4];
	__u32 frame[(2 + ETH_HLEN + 72) / 4];
	__u8 *data = (__u8 *)frame + 2, *body = data + ETH_HLEN + 40;
	struct ipv6hdr *ip = (void *)(data + ETH_HLEN);
	__u32 sum;

	frame[0] = 0;
	if (bpf_skb_load_bytes(skb, 0, data, ETH_HLEN + 72))
		return TC_ACT_UNSPEC;
	if (ip->payload_len != bpf_htons(32) || ip->hop_limit != 255 || body[1] != 0 || body[24] != 1 || body[25] != 1)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(target, body + 8, 16);
	__builtin_memcpy(source, &ip->saddr, 16);
	if (!(source[0] | source[1] | source[2] | source[3]) || !is_vip(target) || is_vip(source))
		return TC_ACT_UNSPEC;
	__builtin_memcpy(data, body + 26, 6);
	__builtin_memcpy(data + 6, s->source_mac, 6);
	__builtin_memcpy(&ip->daddr, source, 16);
	__builtin_memcpy(&ip->saddr, target, 16);
	body[0] = 136;
	body[2] = body[3] = 0;
	*(__u32 *)(body + 4) = bpf_htonl(s->router ? 0xe0000000 : 0x60000000); /* (router,) solicited, override */
	body[24] = 2;
	__builtin_memcpy(body + 26, s->cluster_mac, 6);
	sum = bpf_csum_diff(0, 0, (__be32 *)&ip->saddr, 32, 0);
	sum = bpf_csum_diff(0, 0, (__be32 *)body, 32, sum);
	sum = (sum & 0xffff) + (sum >> 16);
	sum += bpf_htons(32) + bpf_htons(IPPROTO_ICMPV6);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*(__u16 *)(body + 2) = ~sum;
	if (bpf_skb_store_bytes(skb, 0, data, ETH_HLEN + 72, 0))
		return TC_ACT_UNSPEC;
	count(NDS, 0);
	return bpf_redirect(skb->ifindex, 0);
}

/* What most packets are, judged with what their verdict depends on and nothing else: IPv4 without options, to the first
 * VIP, of an owned bucket under a rule that covers everything. Anything else: false, and the long way decides. */
static __always_inline bool usual(struct __sk_buff *skb, const struct settings *s, bool framed)
{
	const struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
	__u32 zero = 0, one = 1, which, slot, bucket, source;
	struct activity *activity;
	struct tally *tally;
	struct share *share;
	__u64 *generation;
	__u8 protocol;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end || *(const __u8 *)ip != 0x45 || ip->daddr != s->first4 ||
	    ip->protocol == IPPROTO_ICMP)
		return false;
	protocol = ip->protocol;
	source = ip->saddr;
	generation = bpf_map_lookup_elem(&live, &one);
	if (!generation)
		return false;
	which = (*generation & 1) * MAX_RULES;
	share = bpf_map_lookup_elem(&shares, &which);
	tally = bpf_map_lookup_elem(&counters, &zero);
	slot = ((__u64)jhash(&source, 1, s->seed) * SLOTS) >> 32;
	bucket = slot >> 6;
	if (!share || !tally || bucket >= BUCKETS || slot >= SLOTS || share->state[bucket] != OWNED || !leased())
		return false;
	if (s->records && protocol != IPPROTO_TCP) {
		activity = bpf_map_lookup_elem(&activity_of, &zero);
		if (activity && activity->last[slot] != (__u32)(*generation >> 32))
			activity->last[slot] = *generation >> 32;
	}
	tally->value[ACCEPTED]++;
	if (framed) {
		tally->value[SEEN]++;
		if (skb->pkt_type != PACKET_HOST)
			bpf_skb_change_type(skb, PACKET_HOST);
	}
	return true;
}

/* Everything else. Not static: the verifier follows it once, not once for each way that leads here. */
__noinline int nlb_judge(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&settings, &zero);
	struct packet p = {};
	__u32 kind, vip = NO_VIP;
	struct ethhdr *eth;
	bool framed;
	__u16 proto;
	__u8 type;

	/* A tagged frame belongs to another interface. */
	if (!s || skb->vlan_present || !(eth = header(skb, 0, sizeof(*eth))))
		return TC_ACT_UNSPEC;
	framed = equal_mac(eth->h_dest, s->cluster_mac);
	proto = eth->h_proto;
	if (proto == bpf_htons(ETH_P_ARP))
		return arp(skb, s);
	if (proto == bpf_htons(ETH_P_IP) ? !read_ipv4(skb, &p) : proto != bpf_htons(ETH_P_IPV6) || !read_ipv6(skb, &p))
		return TC_ACT_UNSPEC;
	if (p.version == 6 && p.protocol == IPPROTO_ICMPV6 && p.offset == ETH_HLEN + 40 &&
	    !bpf_skb_load_bytes(skb, p.offset, &type, 1) && type == 135) {
		int verdict = neighbour(skb, s);

		if (verdict != TC_ACT_UNSPEC)
			return verdict;
	}
	kind = find(s, &p, &vip);
	if (kind)
		return kind == OWN ? TC_ACT_UNSPEC : to_vip(skb, s, &p, vip, framed);
	if (!framed)
		return TC_ACT_UNSPEC;
	if (p.version == 6 && s->internal && s->client_bits && within(p.destination, s->client_prefix, s->client_bits))
		return to_client(skb, s, &p);
	if (p.version == 6 && (p.destination[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000))
		return TC_ACT_UNSPEC; /* link-local addresses are never routed */
	return s->takeover ? count(STRAY, TC_ACT_SHOT) : TC_ACT_UNSPEC;
}

SEC("tc")
int nlb_ingress(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&settings, &zero);
	struct ethhdr *eth;

	/* A tagged frame belongs to another interface. */
	if (!s || skb->vlan_present || !(eth = header(skb, 0, sizeof(*eth))))
		return TC_ACT_UNSPEC;
	if (eth->h_proto == bpf_htons(ETH_P_IP) && s->whole && usual(skb, s, equal_mac(eth->h_dest, s->cluster_mac)))
		return TC_ACT_UNSPEC;
	return nlb_judge(skb);
}

SEC("tc")
int nlb_egress(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&settings, &zero);
	__u8 source[6];

	if (s && !bpf_skb_load_bytes(skb, 6, source, 6) && equal_mac(source, s->cluster_mac))
		bpf_skb_store_bytes(skb, 6, s->source_mac, 6, 0);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual BSD/GPL";
