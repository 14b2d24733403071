//! A message as its bytes: to compare answers byte for byte, and to send what is no message at all.

use bytes::{Buf, BufMut};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, skip_field},
};

/// Encodes to, and decodes from, any bytes whatever.
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

    /// Only for one within another message, which this never is.
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
    fn nothing_is_lost_and_nothing_is_understood() {
        let raw = Raw(vec![0xff, 0, 0x0a, 1, b'x']);
        assert_eq!(Raw::decode(raw.encode_to_vec().as_slice()), Ok(raw));
    }
}
