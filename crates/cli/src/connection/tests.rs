use std::io::Write;

use super::*;

#[test]
fn an_address_is_a_host_with_a_port_or_a_url() {
    for (address, url) in [
        ("127.0.0.1:8088", "http://127.0.0.1:8088/"),
        ("[::1]:8088", "http://[::1]:8088/"),
        ("http://h:1", "http://h:1/"),
        ("http://h:1/", "http://h:1/"),
        ("https://gateway.example", "https://gateway.example/"),
    ] {
        assert_eq!(uri(address).expect(address).to_string(), url);
    }
    for address in ["", "h", "h:", ":1", "h:0", "h:70000", "u:p@h:1", "h:1/x", "ftp://h:1", "http://", "h h:1"] {
        assert_eq!(uri(address).expect_err(address).code(), 78, "{address}");
    }
}

#[test]
fn the_loopback_is_known() {
    for host in ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"] {
        assert!(is_loopback(host), "{host}");
    }
    for host in ["10.0.0.1", "example.com", "localhost.example.com"] {
        assert!(!is_loopback(host), "{host}");
    }
}

fn common(token_file: Option<&Path>) -> Common {
    use clap::{Args, Command, FromArgMatches};
    let file = token_file.map(|path| vec!["--token-file".to_owned(), shown(path)]).unwrap_or_default();
    let arguments = std::iter::once("x".to_owned()).chain(file);
    let matches = Common::augment_args(Command::new("x")).get_matches_from(arguments);
    Common::from_arg_matches(&matches).expect("valid")
}

#[test]
fn a_token_file_has_one_token() {
    let token_in = |content: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(content).expect("written");
        token(&common(Some(file.path())))
    };
    let value = token_in(b"  abc.def\n").expect("valid").expect("a token");
    assert_eq!(value.to_str().expect("ASCII"), "Bearer abc.def");
    assert!(value.is_sensitive(), "its Debug must not show it");
    for wrong in [&b""[..], b"\n", b"two words", "토큰".as_bytes(), b"\xff"] {
        let error = token_in(wrong).expect_err("no token");
        assert_eq!(error.code(), 78);
        assert!(!format!("{error:?}").contains("words"), "the content stays out of the text: {error:?}");
    }
    assert_eq!(token(&common(Some(Path::new("/nowhere")))).expect_err("no file").code(), 78);
}
