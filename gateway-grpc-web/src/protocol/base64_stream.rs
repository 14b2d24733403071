//! Base64 that arrives in chunks, as bodies of gRPC-Web text do.
//!
//! Senders may encode piece by piece, so padding may stand anywhere, and chunks are cut anywhere, inside a group of four too.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What has arrived is not base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Decodes chunk by chunk; holds back the up to three characters that do not make a group yet.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    waiting: Vec<u8>,
}

impl Decoder {
    /// The bytes that are complete with this chunk, perhaps none.
    pub(crate) fn decode(&mut self, chunk: &[u8]) -> Result<Bytes, Malformed> {
        if self.waiting.is_empty() {
            return self.decode_aligned(chunk);
        }
        let mut text = std::mem::take(&mut self.waiting);
        text.extend_from_slice(chunk);
        self.decode_aligned(&text)
    }

    /// The last bytes: a sender may leave out the padding at the very end.
    pub(crate) fn finish(&mut self) -> Result<Bytes, Malformed> {
        let text = std::mem::take(&mut self.waiting);
        ENGINE.decode(&text).map(Bytes::from).map_err(|_| Malformed)
    }

    /// Whether no character waits for the rest of its group.
    pub(crate) fn is_aligned(&self) -> bool {
        self.waiting.is_empty()
    }

    fn decode_aligned(&mut self, text: &[u8]) -> Result<Bytes, Malformed> {
        let whole = text.len() - text.len() % 4;
        let (mut text, rest) = text.split_at(whole);
        self.waiting.extend_from_slice(rest);
        let mut decoded = Vec::with_capacity(whole / 4 * 3);
        while !text.is_empty() {
            // A piece ends with the group that has padding.
            let end = text.iter().position(|byte| *byte == b'=').map_or(text.len(), |at| at - at % 4 + 4);
            let (piece, more) = text.split_at(end);
            ENGINE.decode_vec(piece, &mut decoded).map_err(|_| Malformed)?;
            text = more;
        }
        Ok(decoded.into())
    }
}

/// One piece of an answer, padded, so that the next one can follow at once.
pub(crate) fn encode(bytes: &[u8]) -> Bytes {
    ENGINE.encode(bytes).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_in_chunks(text: &[u8], size: usize) -> Result<Vec<u8>, Malformed> {
        let mut decoder = Decoder::default();
        let mut decoded = Vec::new();
        for chunk in text.chunks(size) {
            decoded.extend_from_slice(&decoder.decode(chunk)?);
        }
        decoded.extend_from_slice(&decoder.finish()?);
        assert!(decoder.is_aligned());
        Ok(decoded)
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in [&b"A*AA"[..], b"A", b"AAAAA", b"=AAA", b"A=AA", b"AA=A", b"====", b"AAAA\n", b"AA==A"] {
            for size in 1..=text.len() {
                assert_eq!(decode_in_chunks(text, size), Err(Malformed), "{text:?} by {size}");
            }
        }
        assert_eq!(decode_in_chunks(b"AAA", 1), Ok(vec![0, 0]), "padding may be left out at the end");
    }

    proptest! {
        #[test]
        fn pieces_and_chunks_of_any_size_are_decoded(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            size in 1_usize..50,
        ) {
            let text: Vec<u8> = pieces.iter().flat_map(|piece| encode(piece)).collect();
            prop_assert_eq!(decode_in_chunks(&text, size), Ok(pieces.concat()));
        }

        #[test]
        fn nothing_panics(text in prop::collection::vec(any::<u8>(), 0..60), size in 1_usize..50) {
            decode_in_chunks(&text, size).ok();
        }
    }
}
