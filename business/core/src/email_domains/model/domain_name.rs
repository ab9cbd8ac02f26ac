use std::fmt;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// The longest name in bytes, without the trailing dot (RFC 1035, section 2.3.4: 255 octets on
/// the wire, of which two are the first length and the root).
pub const MAX_LENGTH: usize = 253;
/// The longest label in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL_LENGTH: usize = 63;
/// The longest input that is looked at. A name of 253 letters takes at most four bytes each, and
/// some more for what UTS #46 maps to nothing.
const MAX_INPUT_LENGTH: usize = 2_048;

/// The longest label in bytes that UTS #46 looks at: its work grows with the square of a label's
/// length. 63 letters take at most four bytes each, and a decomposed syllable has many bytes, but
/// then few of them fill a label in ASCII.
const MAX_LABEL_INPUT_LENGTH: usize = 256;

/// The name of a mail domain in its one canonical form: lower case, A-labels only (RFC 5890), no
/// trailing dot.
///
/// Built by [`DomainName::parse`] and by nothing else that input reaches, so whoever holds one
/// need not check it again. Subdomains are names of their own: mail is routed by the exact host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DomainName(Box<str>);

/// Why a text is not the name of a mail domain.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidDomainName {
    /// There is nothing, or nothing but a dot.
    #[error("a domain name cannot be empty")]
    Empty,
    /// The whole is too long.
    #[error("a domain name has at most {MAX_LENGTH} bytes in its ASCII form")]
    TooLong,
    /// Two dots meet, or the name begins with one.
    #[error("a domain name has no empty label: two dots meet, or it begins with a dot")]
    EmptyLabel,
    /// One label is too long.
    #[error("a label has at most {MAX_LABEL_LENGTH} bytes in its ASCII form")]
    LabelTooLong,
    /// A label begins or ends with a hyphen.
    #[error("a label neither begins nor ends with a hyphen")]
    Hyphen,
    /// A character that no host name has.
    #[error("{0:?} cannot stand in a domain name")]
    Character(char),
    /// An address is not a name.
    #[error("an IP address is not a domain name")]
    IpAddress,
    /// Not valid under internationalised domain names (UTS #46), such as a false `xn--` label.
    #[error("not a valid internationalised domain name (UTS #46)")]
    Internationalised,
}

impl DomainName {
    /// Reads a name as people and mail systems write it: any case, with or without one trailing
    /// dot, in Unicode or in ASCII.
    ///
    /// Plain ASCII names take a path of their own that allocates once. All others go through
    /// UTS #46 (non-transitional, STD 3 rules), so that `Bücher.example` and
    /// `xn--bcher-kva.example` are one domain, and emoji names are A-labels too.
    ///
    /// # Errors
    /// [`InvalidDomainName`] says what is wrong.
    pub fn parse(input: &str) -> Result<Self, InvalidDomainName> {
        if is_plain(input) {
            return Ok(Self(input.to_ascii_lowercase().into_boxed_str()));
        }
        if input.len() > MAX_INPUT_LENGTH {
            return Err(InvalidDomainName::TooLong);
        }
        if !needs_uts46(input.as_bytes()) {
            let name = input.strip_suffix('.').unwrap_or(input);
            check_ascii(name)?;
            return Ok(Self(name.to_ascii_lowercase().into_boxed_str()));
        }
        // The dots that UTS #46 knows.
        let mut labels = input.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']);
        if labels.any(|label| label.len() > MAX_LABEL_INPUT_LENGTH) {
            return Err(InvalidDomainName::LabelTooLong);
        }
        let ascii = Uts46::new()
            .to_ascii(
                input.as_bytes(),
                AsciiDenyList::STD3,
                Hyphens::CheckFirstLast,
                // The lengths are checked below, with a reason of their own.
                DnsLength::Ignore,
            )
            .map_err(|_| InvalidDomainName::Internationalised)?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        check_ascii(name)?;
        Ok(Self(name.into()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same name, borrowed.
    pub fn borrowed(&self) -> DomainRef<'_> {
        DomainRef(&self.0)
    }

    /// The canonical text, without copying it.
    pub(super) fn into_text(self) -> Box<str> {
        self.0
    }
}

/// A [`DomainName`] that lies in somebody else's memory: in a group's text, in a journal record,
/// in a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DomainRef<'a>(&'a str);

impl<'a> DomainRef<'a> {
    /// Takes back the text of a name from where a store keeps it, without going through UTS #46
    /// again.
    ///
    /// # Errors
    /// When the text is no canonical name, so was never written from one.
    pub fn from_stored(text: &'a str) -> Result<Self, InvalidDomainName> {
        if !is_plain(text) {
            check_ascii(text)?;
        }
        match text.bytes().find(u8::is_ascii_uppercase) {
            Some(upper) => Err(InvalidDomainName::Character(upper.into())),
            None => Ok(Self(text)),
        }
    }

    /// The canonical text.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// A name of its own.
    pub fn to_name(self) -> DomainName {
        DomainName(self.0.into())
    }

    /// Text that is known to come from a name.
    pub(super) fn from_canonical(text: &'a str) -> Self {
        debug_assert!(check_ascii(text).is_ok(), "{text:?} is no canonical name");
        Self(text)
    }
}

impl AsRef<str> for DomainName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is for sure a name that only has to be put in lower case: what nearly all names
/// are. Of others [`DomainName::parse`] tells what they are, or why they are none.
///
/// Every event comes by here, so it looks at every byte once.
pub(super) fn is_plain(text: &str) -> bool {
    let name = text.as_bytes();
    let (mut label, mut previous) = (0, b'.');
    for (at, &byte) in name.iter().enumerate() {
        let fits = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => true,
            // Two of them in the third and fourth place: it may be an A-label.
            b'-' => at > label && !(previous == b'-' && at == label + 3),
            b'.' => {
                let sound = at > label && at - label <= MAX_LABEL_LENGTH && previous != b'-';
                label = at + 1;
                sound
            }
            _ => false,
        };
        if !fits {
            return false;
        }
        previous = byte;
    }
    // What begins with a letter is no number, in whatever notation.
    name.get(label).is_some_and(u8::is_ascii_alphabetic)
        && name.len() - label <= MAX_LABEL_LENGTH
        && previous != b'-'
        && name.len() <= MAX_LENGTH
}

/// Whether UTS #46 has a say: beyond ASCII, or a label that claims to be an A-label.
fn needs_uts46(input: &[u8]) -> bool {
    !input.is_ascii()
        || input.split(|&byte| byte == b'.').any(|label| {
            label
                .get(..4)
                .is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"xn--"))
        })
}

/// The rules for a name in ASCII, without its trailing dot.
fn check_ascii(name: &str) -> Result<(), InvalidDomainName> {
    if name.is_empty() {
        return Err(InvalidDomainName::Empty);
    }
    if let Some(stranger) = name
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.'))
    {
        return Err(match stranger {
            // An IPv6 address, bare or in brackets, deserves its own name.
            ':' | '[' if looks_like_ipv6(name) => InvalidDomainName::IpAddress,
            other => InvalidDomainName::Character(other),
        });
    }
    let mut last = name;
    for label in name.split('.') {
        if label.is_empty() {
            return Err(InvalidDomainName::EmptyLabel);
        }
        if label.len() > MAX_LABEL_LENGTH {
            return Err(InvalidDomainName::LabelTooLong);
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(InvalidDomainName::Hyphen);
        }
        last = label;
    }
    if name.len() > MAX_LENGTH {
        return Err(InvalidDomainName::TooLong);
    }
    if ends_in_a_number(last) {
        return Err(InvalidDomainName::IpAddress);
    }
    Ok(())
}

/// Whether a name with this last label is read as an IPv4 address, in any of the forms that
/// programs accept (`1.2.3.4`, `127.1`, `0x7f.1`): the "ends in a number" rule of the URL
/// standard. No top-level domain is a number (RFC 3696, section 2).
fn ends_in_a_number(last: &str) -> bool {
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return true;
    }
    last.strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn looks_like_ipv6(name: &str) -> bool {
    let inner = name.strip_prefix('[').unwrap_or(name);
    let inner = inner.strip_suffix(']').unwrap_or(inner);
    let inner = inner.strip_prefix("IPv6:").unwrap_or(inner);
    inner.parse::<std::net::Ipv6Addr>().is_ok() || inner.parse::<std::net::Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(input: &str) -> String {
        DomainName::parse(input)
            .map(|name| name.to_string())
            .unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn one_canonical_form() {
        for (input, canonical) in [
            ("example.com", "example.com"),
            ("EXAMPLE.Com", "example.com"),
            ("example.com.", "example.com"),
            ("localhost", "localhost"),
            ("mail.example.com", "mail.example.com"),
            ("a--b.example", "a--b.example"),
            ("1and1.com", "1and1.com"),
            ("4.4.example", "4.4.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example.", "xn--bcher-kva.example"),
            ("faß.de", "xn--fa-hia.de"),
            ("☕.example", "xn--53h.example"),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ] {
            assert_eq!(parsed(input), canonical, "{input:?}");
        }
    }

    #[test]
    fn refused_with_its_reason() {
        use InvalidDomainName::*;
        let long_label = format!("{}.com", "a".repeat(64));
        let long_name = format!("{}com", "a234567.".repeat(32));
        let long_unicode = format!("{}.de", "ü".repeat(63));
        let endless_unicode = format!("{}.de", "\u{ad}".repeat(500));
        let endless = "a.".repeat(5_000);
        for (input, reason) in [
            ("", Empty),
            (".", Empty),
            ("..", EmptyLabel),
            ("example..com", EmptyLabel),
            (".example.com", EmptyLabel),
            ("example.com..", EmptyLabel),
            ("bücher..example", EmptyLabel),
            (&long_label, LabelTooLong),
            (&long_unicode, LabelTooLong),
            (&endless_unicode, LabelTooLong),
            (&long_name, TooLong),
            (&endless, TooLong),
            ("-example.com", Hyphen),
            ("example-.com", Hyphen),
            ("exa mple.com", Character(' ')),
            ("exa_mple.com", Character('_')),
            ("user@example.com", Character('@')),
            ("example.com/path", Character('/')),
            ("example.com%2f", Character('%')),
            ("example\0.com", Character('\0')),
            ("example.com:25", Character(':')),
            ("1.2.3.4", IpAddress),
            ("1.2.3.4.", IpAddress),
            ("127.1", IpAddress),
            ("0x7f.0x1", IpAddress),
            ("3232235521", IpAddress),
            ("１.２.３.４", IpAddress),
            ("::1", IpAddress),
            ("[::1]", IpAddress),
            ("[IPv6:2001:db8::1]", IpAddress),
            ("[1.2.3.4]", IpAddress),
            ("xn--a.example", Internationalised),
            ("xn--.example", Internationalised),
            ("a\u{fffd}.example", Internationalised),
            ("exämple_.com", Internationalised),
        ] {
            assert_eq!(DomainName::parse(input), Err(reason), "{input:?}");
        }
    }

    #[test]
    fn the_longest_name_is_accepted() {
        let name = format!(
            "{}.{}.{}.{}",
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61)
        );
        assert_eq!(name.len(), MAX_LENGTH);
        assert_eq!(parsed(&name), name);
        assert_eq!(parsed(&format!("{name}.")), name);
        assert!(DomainName::parse(&format!("{name}d")).is_err());
    }

    proptest! {
        #[test]
        fn anything_parses_or_is_refused_and_what_parses_is_canonical(input in ".{0,300}") {
            if let Ok(name) = DomainName::parse(&input) {
                prop_assert_eq!(DomainName::parse(name.as_str()), Ok(name.clone()));
                prop_assert_eq!(DomainRef::from_stored(name.as_str()), Ok(name.borrowed()));
                prop_assert!(name.as_str().len() <= MAX_LENGTH);
                prop_assert!(name.as_str().bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')));
            }
        }

        /// What is called plain passes every check, and is nothing that UTS #46 would change.
        #[test]
        fn plain_is_sound(input in "[a-cA-C0-2.-]{1,9}|[a-z-]{60,70}(\\.[a-z0-9]{0,3}){0,2}|xn--[a-z]{3}") {
            if is_plain(&input) {
                prop_assert_eq!(check_ascii(&input), Ok(()));
                prop_assert!(!needs_uts46(input.as_bytes()));
            } else {
                // Or all would take the long way, and nobody notice.
                let other = needs_uts46(input.as_bytes())
                    || check_ascii(&input).is_err()
                    || input.contains("--")
                    || input.rsplit('.').next().is_some_and(|top| top.starts_with(|c: char| c.is_ascii_digit()));
                prop_assert!(other, "{:?} is plain", input);
            }
        }

        /// The fast path and UTS #46 agree on every plain host name.
        #[test]
        fn the_ascii_path_agrees_with_uts46(input in "[a-zA-Z0-9.-]{1,80}") {
            prop_assume!(!needs_uts46(input.as_bytes()));
            let ours = DomainName::parse(&input).map(|name| name.to_string());
            let theirs = Uts46::new()
                .to_ascii(input.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::VerifyAllowRootDot)
                .map(|name| name.strip_suffix('.').unwrap_or(&name).to_owned());
            match (ours, theirs) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, theirs),
                // UTS #46 knows nothing of addresses.
                (Err(InvalidDomainName::IpAddress), Ok(_)) | (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{:?} against {:?}", ours, theirs),
            }
        }
    }
}
