//! A message as raw bytes, to compare responses byte for byte and to send invalid messages.

use bytes::{Buf, BufMut};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, skip_field},
};

/// Encodes and decodes arbitrary bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raw(pub Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge(&mut self, mut buffer: impl Buf) -> Result<(), DecodeError> {
        while buffer.has_remaining() {
            let length = buffer.chunk().len();
            self.0.extend_from_slice(buffer.chunk());
            buffer.advance(length);
        }
        Ok(())
    }

    /// Used only for nested messages; this type is never nested.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_unchanged() {
        let raw = Raw(vec![0xff, 0, 0x0a, 1, b'x']);
        assert_eq!(Raw::decode(raw.encode_to_vec().as_slice()), Ok(raw));
    }
}
