//! The system calls that a running gateway or client tunnel needs, and no others (seccomp, Linux 4.14 and later).
//!
//! Installed for all threads once everything is open and running; threads that start later inherit it. What no code here
//! ever asks for but an intruder would (another program, another process' memory, a mount) ends the process. Anything
//! else outside the list fails with EPERM and is logged by the kernel (audit record 1326), so that a library that one
//! day asks for something harmless loses that and not the service.
//!
//! Filters see the arguments but nothing they point to: `openat2` and `clone3`, whose arguments are structures, are
//! not available, and the C library falls back to `openat` and `clone`.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};

/// Why the filter is not in force; the process must not serve then.
#[derive(Debug)]
pub enum ConfineError {
    /// The filter could not be put together for this machine.
    Filter(String),
    /// The kernel refused it: seccomp is missing, or `no_new_privs` is not set.
    Kernel(io::Error),
    /// A thread has other filters and cannot be brought under these.
    Thread(c_long),
}

impl std::fmt::Display for ConfineError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Filter(error) => write!(out, "no system call filter can be made for this machine: {error}"),
            Self::Kernel(error) => write!(out, "the kernel refused the system call filter: {error}"),
            Self::Thread(thread) => write!(out, "thread {thread} cannot be brought under the system call filter"),
        }
    }
}

impl std::error::Error for ConfineError {}

/// Calls allowed whatever their arguments: what is open is used, memory, time, threads and signals of one's own.
const ALLOWED: &[c_long] = &[
    // Descriptors that are open.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_fstat,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    // Sockets.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_shutdown,
    // Looking at files (the interpreter's modules, the resolver's configuration); opening them is a rule below.
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_getcwd,
    // Memory; making it executable is a rule below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_membarrier,
    // Threads, time, chance.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Who am I.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    // Signals of one's own; sending one is a rule below.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
];

/// The older forms that x86-64 still has and its C library still uses.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// Calls that only an intruder makes.
const FATAL: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_memfd_create,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];

/// What the processes ask of descriptors by ioctl: FIONBIO, and how much waits in a socket (SIOCINQ, SIOCOUTQ,
/// SIOCOUTQNSD) or whether it is a terminal (TCGETS). Devices were set up before.
const IOCTLS: &[u64] = &[0x5421, 0x541b, 0x5411, 0x894b, 0x5401];

const PR_SET_VMA: u64 = 0x5356_4d41;

type Rules = Vec<SeccompRule>;

fn condition(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, Qword, MaskedEq(mask), value)
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, Dword, Eq, value)
}

fn any_of(argument: u8, values: &[u64]) -> Result<Rules, seccompiler::BackendError> {
    values.iter().map(|&value| SeccompRule::new(vec![is(argument, value)?])).collect()
}

/// Calls allowed with some arguments.
fn rules() -> Result<Vec<(c_long, Rules)>, seccompiler::BackendError> {
    let one = |conditions: Vec<SeccompCondition>| SeccompRule::new(conditions).map(|rule| vec![rule]);
    let flags = |flags: i32| u64::from(flags.unsigned_abs());
    let (write, execute) = (flags(libc::PROT_WRITE), flags(libc::PROT_EXEC));
    // SAFETY: getpid has no arguments and cannot fail.
    let own = u64::from(unsafe { libc::getpid() }.unsigned_abs());
    let reading = flags(libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND);
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            sockets.push(SeccompRule::new(vec![is(0, flags(family))?, condition(1, 0xf, flags(kind))?])?);
        }
    }
    let mapped = vec![
        SeccompRule::new(vec![condition(2, execute, 0)?])?,
        // Code comes from files only, and nobody writes to it.
        SeccompRule::new(vec![condition(2, execute | write, execute)?, condition(3, flags(libc::MAP_ANONYMOUS), 0)?])?,
    ];
    let mut allowed = vec![
        (libc::SYS_openat, one(vec![condition(2, reading, 0)?])?),
        (libc::SYS_mmap, mapped),
        (libc::SYS_mprotect, one(vec![condition(2, execute, 0)?])?),
        (libc::SYS_socket, sockets),
        // A new thread, never a process.
        (libc::SYS_clone, one(vec![condition(0, flags(libc::CLONE_THREAD), flags(libc::CLONE_THREAD))?])?),
        (libc::SYS_tgkill, any_of(0, &[own])?),
        (libc::SYS_ioctl, any_of(1, IOCTLS)?),
        (libc::SYS_prctl, any_of(0, &[flags(libc::PR_SET_NAME), flags(libc::PR_GET_NAME), PR_SET_VMA])?),
        // Reading limits, not setting them.
        (libc::SYS_prlimit64, one(vec![SeccompCondition::new(2, Qword, Eq, 0)?])?),
    ];
    #[cfg(target_arch = "x86_64")]
    allowed.push((libc::SYS_open, one(vec![condition(1, reading, 0)?])?));
    allowed.extend(ALLOWED.iter().chain(ALLOWED_HERE).map(|&call| (call, Vec::new())));
    // Decided by a filter of its own.
    allowed.push((libc::SYS_clone3, Vec::new()));
    Ok(allowed)
}

fn program(
    rules: impl IntoIterator<Item = (c_long, Rules)>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let rules: BTreeMap<i64, Rules> = rules.into_iter().collect();
    SeccompFilter::new(rules, otherwise, matched, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// The filters in the order in which they are installed. The strictest verdict counts.
fn programs() -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let refuse = |code: i32| SeccompAction::Errno(code.unsigned_abs());
    let plain = |calls: &[c_long]| calls.iter().map(|&call| (call, Vec::new())).collect::<Vec<_>>();
    Ok(vec![
        program(plain(FATAL), SeccompAction::Allow, SeccompAction::KillProcess)?,
        program(plain(&[libc::SYS_clone3]), SeccompAction::Allow, refuse(libc::ENOSYS))?,
        // Last, because it does not allow seccomp either.
        program(rules()?, refuse(libc::EPERM), SeccompAction::Allow)?,
    ])
}

/// Confines every thread of this process, for good.
///
/// # Errors
/// [`ConfineError`]; then some or none of the filters are in force and the process should end.
pub fn confine() -> Result<(), ConfineError> {
    for program in programs().map_err(|error| ConfineError::Filter(error.to_string()))? {
        install(&program)?;
    }
    Ok(())
}

fn install(program: &BpfProgram) -> Result<(), ConfineError> {
    let length = u16::try_from(program.len()).map_err(|error| ConfineError::Filter(error.to_string()))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_LOG;
    // SAFETY: the program lies at `filter` for the whole call, and the kernel only reads it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    match result {
        0 => Ok(()),
        thread @ 1.. => Err(ConfineError::Thread(thread)),
        _ => Err(ConfineError::Kernel(io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_fit_the_kernel_and_do_not_contradict_each_other() {
        for program in programs().unwrap() {
            assert!(program.len() < 4096, "BPF_MAXINSNS");
        }
        let allowed: Vec<c_long> = rules().unwrap().into_iter().map(|(call, _)| call).collect();
        assert!(FATAL.iter().all(|call| !allowed.contains(call)));
    }
}
