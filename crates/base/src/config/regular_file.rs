//! Reads files that a configuration or a command line names.
//!
//! A FIFO blocks whoever opens it until a writer does, and a device may be endless: start and `--check-config` would
//! hang without a word. So only regular files are read.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::FileTypeExt,
    path::Path,
};

/// Where the descriptors of this process are. A shell passes `<(command)` and `< file` as such a path.
const DESCRIPTORS: [&str; 4] = ["/dev/stdin", "/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/"];

/// Reads a regular file. Symbolic links are followed. For files that are read again while the process runs: a pipe can
/// be read only once.
///
/// # Errors
/// If the file cannot be read, or is not a regular file; the text then says what it is.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    check(&fs::metadata(path)?)?;
    fs::read(path)
}

/// Like [`read`], but also reads a descriptor of this process, as `/dev/stdin` or `<(command)` of a shell. For files
/// that are read once: whoever starts the process has opened the other end, so that reading does not wait for ever, and
/// a secret need not be in a file.
///
/// # Errors
/// Like [`read`].
pub fn read_once(path: &Path) -> io::Result<Vec<u8>> {
    let is_descriptor = path.to_str().is_some_and(|path| DESCRIPTORS.iter().any(|start| path.starts_with(start)));
    if is_descriptor { fs::read(path) } else { read(path) }
}

/// Checks a file that may be absent until it is opened, such as a certificate of a connection that is tried again.
///
/// # Errors
/// If it is there and is not a regular file; the text says what it is.
pub fn check_if_present(path: &Path) -> io::Result<()> {
    fs::metadata(path).map_or(Ok(()), |metadata| check(&metadata))
}

/// Checks that a file is a regular one, before it is opened.
///
/// # Errors
/// If it is not; the text says what it is.
pub fn check(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let (error, what) = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => (io::ErrorKind::IsADirectory, "a directory"),
        () if kind.is_fifo() => (io::ErrorKind::InvalidInput, "a FIFO (named pipe)"),
        () if kind.is_socket() => (io::ErrorKind::InvalidInput, "a socket"),
        () => (io::ErrorKind::InvalidInput, "a device"),
    };
    Err(io::Error::new(error, format!("it is {what}, no regular file: name a regular file")))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let (fifo, socket) = (folder.path().join("fifo"), folder.path().join("socket"));
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        for (path, what) in [
            (fifo.as_path(), "a FIFO"),
            (&link, "a FIFO"),
            (&socket, "a socket"),
            (folder.path(), "a directory"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            for read in [read, read_once] {
                let error = read(path).unwrap_err().to_string();
                assert!(error.contains(what) && error.contains("name a regular file"), "{}: {error}", path.display());
            }
            assert!(check_if_present(path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn regular_files_are_read_also_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&path, "text").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for read in [read, read_once] {
            assert_eq!(read(&link).unwrap(), b"text");
        }
        let absent = folder.path().join("absent");
        assert_eq!(read(&absent).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(check_if_present(&absent).is_ok() && check_if_present(&link).is_ok());
    }

    #[test]
    fn a_pipe_that_a_shell_passes_is_read_once() {
        use std::os::fd::AsRawFd;
        let mut echo = Command::new("echo").arg("secret").stdout(Stdio::piped()).spawn().unwrap();
        let pipe = echo.stdout.take().unwrap();
        let path = format!("/dev/fd/{}", pipe.as_raw_fd());
        assert!(read(Path::new(&path)).is_err());
        assert_eq!(read_once(Path::new(&path)).unwrap(), b"secret\n");
        echo.wait().unwrap();
    }
}
