//! Digests in Subresource Integrity (SRI) format, compared as bytes.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Accepts base64 with and without padding, like JavaScript's decoders, which npm uses.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The known algorithms, strongest first.
const ALGORITHMS: [&str; 4] = ["sha512", "sha384", "sha256", "sha1"];

/// Whether two texts of digests contradict each other: of the strongest algorithm that both have, no digest is equal.
/// Text that is not SRI never contradicts.
#[must_use]
pub fn contradict(one: &str, other: &str) -> bool {
    ALGORITHMS
        .iter()
        .map(|algorithm| (digests(one, algorithm), digests(other, algorithm)))
        .find(|(one, other)| !one.is_empty() && !other.is_empty())
        .is_some_and(|(one, other)| !one.iter().any(|digest| other.contains(digest)))
}

fn digests(text: &str, algorithm: &str) -> Vec<Vec<u8>> {
    text.split_ascii_whitespace()
        .filter_map(|item| {
            let (head, digest) = item.split_once('-')?;
            // Options may follow after a question mark. They do not belong to the digest.
            let digest = digest.split('?').next().filter(|digest| !digest.is_empty())?;
            let digest = digest.replace('-', "+").replace('_', "/");
            head.eq_ignore_ascii_case(algorithm).then(|| BASE64.decode(digest).ok())?
        })
        .filter(|digest| !digest.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::contradict;

    #[test]
    fn the_strongest_common_algorithm_decides() {
        for (one, other, expected) in [
            ("sha512-AAAA", "sha512-AAAA", false),
            ("sha512-AAAA", "sha512-BBBB", true),
            ("sha512-AAA=", "sha512-AAA", false),
            ("sha512-+/+/", "sha512--_-_", false),
            ("sha512-AAAA?x=y", "sha512-AAAA", false),
            ("sha512-AAAA sha512-BBBB", "sha512-BBBB", false),
            ("sha512-AAAA\nsha1-AAAA", "sha1-AAAA sha512-BBBB", true),
            ("sha512-AAAA sha1-CCCC", "sha1-CCCC", false),
            ("sha512-AAAA sha1-CCCC", "sha1-DDDD", true),
            ("sha384-AAAA sha256-CCCC", "sha384-BBBB sha256-CCCC", true),
            ("sha1-AAAA", "sha512-BBBB", false),
            // Not SRI: a hexadecimal digest, an unknown algorithm, invalid base64, an empty text.
            ("0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33", "sha1-AAAA", false),
            ("md5-AAAA", "md5-BBBB", false),
            ("sha512-A!AA", "sha512-BBBB", false),
            ("sha512-", "sha512-BBBB", false),
            ("", "sha512-BBBB", false),
        ] {
            assert_eq!(contradict(one, other), expected, "{one:?} {other:?}");
            assert_eq!(contradict(other, one), expected, "{other:?} {one:?}");
        }
    }
}
