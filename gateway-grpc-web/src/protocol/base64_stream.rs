//! Base64 that arrives in chunks, as in bodies of gRPC-Web text.
//!
//! Senders may encode piece by piece, so padding may occur anywhere, and chunks may end anywhere, even inside a group
//! of four characters.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The received text is not base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Decodes chunk by chunk; buffers up to three characters of an incomplete group.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    waiting: Vec<u8>,
}

impl Decoder {
    /// Returns the bytes that this chunk completes, possibly none.
    pub(crate) fn decode(&mut self, chunk: &[u8]) -> Result<Bytes, Malformed> {
        if self.waiting.is_empty() {
            return self.decode_aligned(chunk);
        }
        let mut text = std::mem::take(&mut self.waiting);
        text.extend_from_slice(chunk);
        self.decode_aligned(&text)
    }

    /// Returns the last bytes: a sender may omit the padding at the end.
    pub(crate) fn finish(&mut self) -> Result<Bytes, Malformed> {
        let text = std::mem::take(&mut self.waiting);
        ENGINE.decode(&text).map(Bytes::from).map_err(|_| Malformed)
    }

    /// Returns whether no incomplete group is buffered.
    pub(crate) fn is_aligned(&self) -> bool {
        self.waiting.is_empty()
    }

    fn decode_aligned(&mut self, text: &[u8]) -> Result<Bytes, Malformed> {
        let whole = text.len() - text.len() % 4;
        let (mut text, rest) = text.split_at(whole);
        self.waiting.extend_from_slice(rest);
        let mut decoded = Vec::with_capacity(whole / 4 * 3);
        while !text.is_empty() {
            // A piece ends with the group that contains padding.
            let end = text.iter().position(|byte| *byte == b'=').map_or(text.len(), |at| at - at % 4 + 4);
            let (piece, more) = text.split_at(end);
            ENGINE.decode_vec(piece, &mut decoded).map_err(|_| Malformed)?;
            text = more;
        }
        Ok(decoded.into())
    }
}

/// Encodes one piece of a response with padding, so that another piece can follow.
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
    fn invalid_base64_is_rejected() {
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
        fn arbitrary_text_does_not_panic(text in prop::collection::vec(any::<u8>(), 0..60), size in 1_usize..50) {
            decode_in_chunks(&text, size).ok();
        }
    }
}
