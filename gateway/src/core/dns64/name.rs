//! Domain names in wire form, bounded by construction: at most 255 bytes, labels of at most 63, no compression.

use std::fmt;
use std::hash::{Hash, Hasher};

/// The longest name with its final zero (RFC 1035 section 3.1).
pub const MAX_NAME: usize = 255;

/// An uncompressed name ending in the root label. Kept in place: no allocation per name.
#[derive(Clone, Copy)]
pub struct Name {
    length: u8,
    bytes: [u8; MAX_NAME],
}

impl Name {
    /// The root.
    pub const ROOT: Self = Self { length: 1, bytes: [0; MAX_NAME] };

    /// Reads an uncompressed name at the start of `wire`; `None` when it is cut off, compressed or longer than 255 bytes.
    /// Its encoded length is [`Name::wire`]'s.
    pub fn parse(wire: &[u8]) -> Option<Self> {
        let mut end = 0;
        loop {
            let label = usize::from(*wire.get(end)?);
            // The two high bits mark a compression pointer or an extension; neither belongs in a question.
            if label > 63 {
                return None;
            }
            end += 1 + label;
            if end > MAX_NAME {
                return None;
            }
            if label == 0 {
                break;
            }
        }
        let mut name = Self { length: end as u8, bytes: [0; MAX_NAME] };
        name.bytes[..end].copy_from_slice(&wire[..end]);
        Some(name)
    }

    /// Reads the name at `at` of a message, compressed or not; `None` when it is cut off, longer than 255 bytes, or when a
    /// pointer does not lead backwards (which is how loops are made).
    pub fn read(message: &[u8], mut at: usize) -> Option<Self> {
        let mut name = Self { length: 0, bytes: [0; MAX_NAME] };
        let (mut end, mut before) = (0, at);
        loop {
            let label = usize::from(*message.get(at)?);
            match label {
                0 => {
                    name.length = u8::try_from(end + 1).ok().filter(|_| end < MAX_NAME)?;
                    return Some(name);
                }
                1..=63 => {
                    let bytes = message.get(at..=at + label)?;
                    name.bytes.get_mut(end..=end + label)?.copy_from_slice(bytes);
                    end += 1 + label;
                    at += 1 + label;
                }
                0xc0.. => {
                    at = (label & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                    if at >= before {
                        return None;
                    }
                    before = at;
                }
                _ => return None,
            }
        }
    }

    /// Reads `corp.example.net`, with or without a final dot; the empty text is the root. `None` for empty or long labels,
    /// long names, and characters that need escapes in presentation form.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut name = Self::ROOT;
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Some(name);
        }
        let mut end = 0;
        for label in text.split('.') {
            let printable = label.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\\"/:;()@$".contains(&byte));
            if label.is_empty() || label.len() > 63 || !printable || end + 2 + label.len() > MAX_NAME {
                return None;
            }
            name.bytes[end] = label.len() as u8;
            name.bytes[end + 1..end + 1 + label.len()].copy_from_slice(label.as_bytes());
            end += 1 + label.len();
        }
        name.length = (end + 1) as u8;
        Some(name)
    }

    /// Reads the presentation form of RFC 1035 section 5.1: `\\.` and `\\032` stand for one byte each. `None` as for
    /// [`Name::from_text`], save that any byte may be written by its number.
    pub fn from_presentation(text: &str) -> Option<Self> {
        let mut name = Self::ROOT;
        if matches!(text, "" | ".") {
            return Some(name);
        }
        let (mut label, mut end) = (0, 1);
        let mut bytes = text.bytes().peekable();
        while let Some(byte) = bytes.next() {
            let value = match byte {
                b'.' => {
                    name.bytes[label] =
                        u8::try_from(end - label - 1).ok().filter(|length| (1..=63).contains(length))?;
                    label = end;
                    end += 1;
                    if bytes.peek().is_none() {
                        break;
                    }
                    continue;
                }
                b'\\' => {
                    let first = bytes.next()?;
                    if first.is_ascii_digit() {
                        let digits = [first, bytes.next()?, bytes.next()?];
                        std::str::from_utf8(&digits).ok()?.parse().ok()?
                    } else {
                        first
                    }
                }
                0x21..=0x7e => byte,
                _ => return None,
            };
            // The final zero needs its place as well.
            *name.bytes[..MAX_NAME - 1].get_mut(end)? = value;
            end += 1;
        }
        if label + 1 < end {
            name.bytes[label] = u8::try_from(end - label - 1).ok().filter(|length| *length <= 63)?;
            end += 1;
        }
        name.length = u8::try_from(end).ok().filter(|&length| usize::from(length) <= MAX_NAME)?;
        Some(name)
    }

    /// The encoded name with its final zero.
    pub fn wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The encoded name for changes that keep its labels' lengths (upper and lower case).
    pub fn wire_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.length)]
    }

    pub fn is_root(&self) -> bool {
        self.length == 1
    }

    /// The same name in lower case, as names are compared (RFC 4343). Label lengths are below 64 and so never letters.
    #[must_use]
    pub fn lower(mut self) -> Self {
        self.wire_mut().make_ascii_lowercase();
        self
    }

    /// The name's labels, first to last, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.suffixes().filter_map(|suffix| {
            let length = usize::from(suffix[0]);
            (length > 0).then(|| &suffix[1..=length])
        })
    }

    /// True when `other` lies below this name; both in lower case.
    pub fn is_above(&self, other: &Self) -> bool {
        other.wire().len() > self.wire().len() && other.suffixes().any(|suffix| suffix == self.wire())
    }

    /// This name, which lies below `from`, in the same place below `to` (RFC 6672 section 2.2); `None` when it would be
    /// too long.
    pub fn moved(&self, from: &Self, to: &Self) -> Option<Self> {
        let labels = self.wire().len().checked_sub(from.wire().len())?;
        let end = labels + to.wire().len();
        let mut name = Self { length: u8::try_from(end).ok()?, bytes: [0; MAX_NAME] };
        name.bytes.get_mut(..labels)?.copy_from_slice(&self.wire()[..labels]);
        name.bytes.get_mut(labels..end)?.copy_from_slice(to.wire());
        Some(name)
    }

    /// The encoded name and every suffix of it, longest first, the root last.
    pub fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
        Self::suffixes_of(self.wire())
    }

    /// The same of an encoded name kept elsewhere; `wire` must have come from [`Name::wire`].
    pub fn suffixes_of(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut rest = Some(wire);
        std::iter::from_fn(move || {
            let suffix = rest?;
            let length = usize::from(suffix[0]);
            rest = (length > 0).then(|| &suffix[1 + length..]);
            Some(suffix)
        })
    }
}

impl PartialEq for Name {
    /// Byte for byte; compare [`Name::lower`] forms where case does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.wire() == other.wire()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.wire().hash(state);
    }
}

impl fmt::Display for Name {
    /// Presentation form without a final dot; the root is `.`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for (index, label) in self.labels().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_wire_forms_agree() {
        let name = Name::from_text("App4.corp.example.net.").expect("a name");
        assert_eq!(name.wire(), b"\x04App4\x04corp\x07example\x03net\x00");
        assert_eq!(name.to_string(), "App4.corp.example.net");
        assert_eq!(Name::parse(name.wire()), Some(name));
        assert_eq!(name.lower().to_string(), "app4.corp.example.net");
        assert_eq!(name.labels().count(), 4);
        assert_eq!(name.suffixes().last(), Some(&[0][..]));
    }

    #[test]
    fn escapes_are_read_as_they_are_written() {
        for text in ["a\\.b.example", "a\\032b", "\\255.x", "*.wild", "_ldap._tcp.example", "."] {
            assert_eq!(Name::from_presentation(text).expect(text).to_string(), text);
        }
        assert_eq!(Name::from_presentation("a.b."), Name::from_text("a.b"));
        assert_eq!(Name::from_presentation("\\065"), Name::from_text("A"));
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(Name::from_presentation(&longest), Name::from_text(&longest));
        for text in ["a..b", ".a", "a b", "a\\", "a\\25", "a\\256", &"a".repeat(64), &format!("{longest}a"), "ä"] {
            assert_eq!(Name::from_presentation(text), None, "{text}");
        }
    }

    #[test]
    fn names_in_messages_are_read_backwards_only() {
        let message = b"\x03net\x00\x04corp\xc0\x00\x01a\xc0\x05\xc0\x0e\x01b\xc0\x12";
        assert_eq!(Name::read(message, 5), Name::from_text("corp.net"));
        assert_eq!(Name::read(message, 12), Name::from_text("a.corp.net"));
        assert_eq!(Name::read(message, 16), Name::from_text("corp.net"));
        // A pointer to where the name began, one past the end.
        assert_eq!(Name::read(message, 18), None);
        assert_eq!(Name::read(b"\xc0\xff", 0), None);
        let corp = Name::from_text("corp.net").expect("a name");
        let net = Name::from_text("net").expect("a name");
        assert!(net.is_above(&corp) && !corp.is_above(&corp) && !corp.is_above(&net));
        assert!(!Name::from_text("orp.net").expect("a name").is_above(&corp));
        assert_eq!(corp.moved(&net, &Name::from_text("x.org").expect("a name")), Name::from_text("corp.x.org"));
    }

    #[test]
    fn names_are_bounded() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(Name::from_text(&longest).expect("255 bytes").wire().len(), 255);
        assert_eq!(Name::from_text(&format!("{longest}a")), None);
        assert_eq!(Name::from_text(&"a".repeat(64)), None);
        for text in ["a..b", "a b", "a\\.b", "2001:db8::1"] {
            assert_eq!(Name::from_text(text), None, "{text}");
        }
        for wire in [&b""[..], b"\x03ab", b"\xc0\x0c", b"\x40", &[1; 300]] {
            assert_eq!(Name::parse(wire), None, "{wire:?}");
        }
    }
}
