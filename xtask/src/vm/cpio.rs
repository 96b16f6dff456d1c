//! Archives as the kernel unpacks them into its first file system.
//!
//! The format: Documentation/driver-api/early-userspace/buffer-format.rst, `newc`. Thirteen
//! numbers of eight hexadecimal digits, the name, the contents, both padded to four bytes.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;

/// Writes an archive.
#[derive(Debug)]
pub(super) struct CpioWriter<W> {
    to: W,
    inode: u32,
}

impl<W: Write> CpioWriter<W> {
    /// An archive without files.
    pub(super) fn new(to: W) -> Self {
        Self { to, inode: 0 }
    }

    /// A directory. The one that it lies in must be there already.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY, (0, 0), &[])
    }

    /// A file, readable and executable by all.
    pub(super) fn file(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.entry(name, EXECUTABLE, (0, 0), contents)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, LINK, (0, 0), target.as_bytes())
    }

    /// `/dev/console`, which the kernel gives the first program.
    pub(super) fn console(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, CONSOLE, (5, 1), &[])
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "too long for an archive");
        let name_len = u32::try_from(name.len() + 1).map_err(too_long)?;
        let data_len = u32::try_from(data.len()).map_err(too_long)?;
        self.inode += 1;
        let (uid, gid, links, time) = (0, 0, 1, 0);
        let fields = [
            self.inode, mode, uid, gid, links, time, data_len, 0, 0, device.0, device.1, name_len,
            0,
        ];
        self.to.write_all(b"070701")?;
        for field in fields {
            write!(self.to, "{field:08x}")?;
        }
        self.to.write_all(name.as_bytes())?;
        self.to.write_all(&[0])?;
        // The header has 110 bytes: with two more it is aligned.
        self.pad(name.len() + 1 + 2)?;
        self.to.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, len: usize) -> io::Result<()> {
        self.to.write_all(&[0; 3][..len.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_have_their_lengths() {
        let mut archive = CpioWriter::new(Vec::new());
        archive.directory("bin").unwrap();
        archive.file("bin/a", b"12345").unwrap();
        archive.link("bin/b", "a").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let mut at = 0;
        let mut seen = Vec::new();
        while at < bytes.len() {
            let header = std::str::from_utf8(&bytes[at..at + 110]).unwrap();
            assert_eq!(&header[..6], "070701");
            let number =
                |i: usize| usize::from_str_radix(&header[6 + 8 * i..14 + 8 * i], 16).unwrap();
            let (mode, data, name) = (number(1), number(6), number(11));
            let name_at = at + 110;
            let data_at = (name_at + name).next_multiple_of(4);
            seen.push((
                String::from_utf8_lossy(&bytes[name_at..name_at + name - 1]).into_owned(),
                mode,
                String::from_utf8_lossy(&bytes[data_at..data_at + data]).into_owned(),
            ));
            assert_eq!(bytes[name_at + name - 1], 0);
            at = (data_at + data).next_multiple_of(4);
        }
        let entry = |name: &str, mode, data: &str| (name.to_owned(), mode, data.to_owned());
        let expected = [
            entry("bin", 0o040_755, ""),
            entry("bin/a", 0o100_755, "12345"),
            entry("bin/b", 0o120_777, "a"),
            entry("TRAILER!!!", 0, ""),
        ];
        assert_eq!(seen, expected);
    }
}
