//! Text files written by people: UTF-8, with or without a byte order mark, which some editors add.

use std::path::Path;

use super::regular_file;

const UTF_8: &[u8] = &[0xef, 0xbb, 0xbf];
const UTF_16: [&[u8]; 2] = [&[0xff, 0xfe], &[0xfe, 0xff]];

/// Reads a text file once, or a descriptor of this process.
///
/// # Errors
/// Returns why the file cannot be read or decoded, without its name.
pub fn read(path: &Path) -> Result<String, String> {
    decode(regular_file::read_once(path).map_err(|error| format!("the file cannot be read: {error}"))?)
}

/// Decodes a file, and removes a byte order mark.
///
/// # Errors
/// Fails if it is not UTF-8.
pub fn decode(mut bytes: Vec<u8>) -> Result<String, String> {
    if UTF_16.iter().any(|mark| bytes.starts_with(mark)) {
        return Err("the file is in UTF-16: save it in UTF-8".to_owned());
    }
    if has_mark(&bytes) {
        bytes.drain(..UTF_8.len());
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        format!("line {line} of the file is not in UTF-8: save it in UTF-8")
    })
}

/// Whether a file begins with a UTF-8 byte order mark. Libraries that read the file themselves may ignore the first
/// line after a mark.
#[must_use]
pub fn has_mark(bytes: &[u8]) -> bool {
    bytes.starts_with(UTF_8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_removed() {
        assert_eq!(decode("\u{feff}a = 1".into()).as_deref(), Ok("a = 1"));
        assert_eq!(decode("a = 1".into()).as_deref(), Ok("a = 1"));
        assert_eq!(decode(Vec::new()).as_deref(), Ok(""));
    }

    #[test]
    fn the_error_names_the_line_that_is_not_utf_8() {
        let refused = decode(b"a = 1\n# caf\xe9\n".to_vec()).expect_err("Latin-1");
        assert!(refused.contains("line 2") && refused.contains("UTF-8"), "{refused}");
        for bytes in [b"\xff\xfea\0".to_vec(), b"\xfe\xff\0a".to_vec()] {
            assert!(decode(bytes).expect_err("UTF-16").contains("UTF-16"));
        }
    }
}
