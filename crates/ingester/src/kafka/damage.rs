//! Batches that librdkafka cannot read: the checksum is wrong because the broker's disk damaged them, or they cannot be
//! unpacked. librdkafka either repeats the error and stays, or continues after the batch and does not report the gap.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Reads the first offset of an unreadable batch from librdkafka's error text (rdkafka_msgset_reader.c), because
/// librdkafka gives it only there. `None` for any other text.
pub(super) fn unreadable_batch(text: &str) -> Option<i64> {
    if text.starts_with("MessageSet at offset ") && text.contains("CRC32C") {
        return number_after(text, "MessageSet at offset ");
    }
    if text.starts_with("Decompression ") && text.contains(" failed") {
        return number_after(text, " of message at ");
    }
    None
}

/// The number that follows these words of librdkafka's text.
pub(super) fn number_after(text: &str, words: &str) -> Option<i64> {
    let rest = &text[text.find(words)? + words.len()..];
    let end = rest.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Whether an error of `poll` says that a batch cannot be read.
pub(super) fn is_unreadable(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::BadMessage | Code::BadCompression | Code::CriticalSystemResource)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafkas_words_say_which_batch_cannot_be_read() {
        let damaged = "MessageSet at offset 4711 (82 bytes) failed CRC32C check (original 0x1 != calculated 0x2)";
        assert_eq!(unreadable_batch(damaged), Some(4_711));
        let packed = "Decompression (codec 0x4) of message at 12 of 237000 bytes failed: Local: Invalid compressed data";
        assert_eq!(unreadable_batch(packed), Some(12));
        assert_eq!(unreadable_batch("Fetch from broker 1 failed: Broker: Unknown"), None);
    }
}
