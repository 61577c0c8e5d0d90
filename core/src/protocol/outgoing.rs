//! A frame on its way out: bytes that were made here, and record bytes that stay where they are, in a buffer that is
//! shared or in a file, so that no record is copied.

use std::{
    fmt,
    io::{self, IoSlice},
    sync::Arc,
};

use bytes::{Buf as _, Bytes, BytesMut};
use smallvec::SmallVec;
use tokio::io::AsyncWriteExt as _;

use crate::runtime::{DiskFile, WriteHalf};

/// A file region below this goes out together with the bytes around it, by one read and one write; from here on
/// `sendfile` saves the copy.
const SEND_FILE_MIN_BYTES: usize = 64 << 10;

/// Slices that one write takes.
const SLICES_MAX: usize = 16;

/// A part of a file. Its bytes must not change while it lives.
#[derive(Clone)]
pub struct FileRegion {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Where the part begins.
    pub position: u64,
    /// Its length; the file must have that much.
    pub length: usize,
}

impl fmt::Debug for FileRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.length, self.position)
    }
}

impl FileRegion {
    /// The bytes.
    ///
    /// # Errors
    /// As the disk says; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    pub fn read(&self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.length];
        if self.file.read_at(&mut bytes, self.position)? < self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes.into())
    }
}

/// Record batches, where they are.
#[derive(Clone, Debug, Default)]
pub struct Records(pub SmallVec<[Piece; 1]>);

impl Records {
    /// How many bytes they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(Piece::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|piece| piece.len() == 0)
    }

    /// All bytes in one piece; a copy unless they are one already.
    ///
    /// # Errors
    /// As the disk says.
    pub fn to_bytes(&self) -> io::Result<Bytes> {
        if let [piece] = self.0.as_slice() {
            return piece.to_bytes();
        }
        let mut all = BytesMut::with_capacity(self.len());
        for piece in &self.0 {
            all.extend_from_slice(&piece.to_bytes()?);
        }
        Ok(all.freeze())
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        Self(SmallVec::from_iter([Piece::Bytes(bytes)]))
    }
}

/// Some consecutive bytes of a frame.
#[derive(Clone, Debug)]
pub enum Piece {
    /// In memory.
    Bytes(Bytes),
    /// In a file.
    File(FileRegion),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(region) => region.length,
        }
    }

    fn to_bytes(&self) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(region) => region.read(),
        }
    }
}

/// A frame that is put together and then written with its length in front.
#[derive(Debug, Default)]
pub struct Outgoing {
    pieces: SmallVec<[Piece; 4]>,
    pieces_len: usize,
    /// What follows the last piece.
    tail: BytesMut,
}

impl Outgoing {
    /// An empty frame.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The end of the frame, to append to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends records without copying them.
    pub fn push(&mut self, records: Records) {
        if records.is_empty() {
            return;
        }
        self.seal();
        self.pieces_len += records.len();
        self.pieces.extend(records.0);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.pieces_len += tail.len();
            self.pieces.push(Piece::Bytes(tail));
        }
    }

    /// The length of the frame, without its prefix.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces_len + self.tail.len()
    }

    /// Whether nothing was appended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole frame in memory, without its prefix.
    ///
    /// # Errors
    /// As the disk says, for records in files.
    pub fn into_bytes(mut self) -> io::Result<Bytes> {
        self.seal();
        Records(self.pieces.into_iter().collect()).to_bytes()
    }

    /// Writes the frame with its length in front. Not cancel safe: a part may have been written.
    ///
    /// # Errors
    /// As the connection and the disk say; the connection is of no use then.
    pub async fn write(self, output: &mut WriteHalf) -> io::Result<()> {
        write_frames([self], output).await
    }
}

/// Writes frames, each with its length in front, in as few calls as the connection allows. Not cancel safe: a part may
/// have been written.
///
/// # Errors
/// As the connection and the disk say; the connection is of no use then.
pub async fn write_frames(
    frames: impl IntoIterator<Item = Outgoing>,
    output: &mut WriteHalf,
) -> io::Result<()> {
    let mut ready = SmallVec::new();
    for mut frame in frames {
        let length = i32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        frame.seal();
        ready.push(Bytes::copy_from_slice(&length.to_be_bytes()));
        for piece in frame.pieces {
            match piece {
                Piece::Bytes(bytes) => ready.push(bytes),
                Piece::File(region) if region.length < SEND_FILE_MIN_BYTES => ready.push(region.read()?),
                Piece::File(region) => {
                    write_all(output, &mut ready).await?;
                    output.send_file(region.file.as_ref(), region.position, region.length).await?;
                }
            }
        }
    }
    write_all(output, &mut ready).await
}

/// Writes all of `ready` in as few calls as the connection allows, and empties it.
async fn write_all(output: &mut WriteHalf, ready: &mut SmallVec<[Bytes; 4]>) -> io::Result<()> {
    let mut first = 0;
    while let Some(rest) = ready.get_mut(first..).filter(|rest| !rest.is_empty()) {
        let mut written = {
            let slices: SmallVec<[IoSlice<'_>; SLICES_MAX]> =
                rest.iter().take(SLICES_MAX).map(|bytes| IoSlice::new(bytes)).collect();
            output.write_vectored(&slices).await?
        };
        if written == 0 && rest.iter().take(SLICES_MAX).any(|bytes| !bytes.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        for bytes in rest {
            let step = written.min(bytes.len());
            bytes.advance(step);
            written -= step;
            if !bytes.is_empty() {
                break;
            }
            first += 1;
        }
    }
    ready.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::runtime::{Connection, Disk as _, Network as _, Open, RealDisk, RealNetwork};

    /// Sends one frame made of bytes, a small and a large region of a file and bytes again, and returns what came.
    async fn sent_over(near: Connection, mut far: Connection) -> (Vec<u8>, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("file"), Open::Write).unwrap();
        let content: Vec<u8> = (0..300_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        file.write_at(&mut [IoSlice::new(&content)], 0).unwrap();
        let region = |position: usize, length| {
            let region = FileRegion { file: file.clone(), position: position as u64, length };
            Records(SmallVec::from_iter([Piece::File(region)]))
        };
        let mut frame = Outgoing::new();
        frame.buffer().extend_from_slice(b"head");
        frame.push(region(5, 100));
        frame.push(region(1000, 200_000));
        frame.push(Bytes::from_static(b"middle").into());
        frame.buffer().extend_from_slice(b"tail");
        let body = [b"head", &content[5..105], &content[1000..201_000], b"middle", b"tail"].concat();
        assert_eq!(frame.len(), body.len());
        let (_read, mut write) = near.into_split();
        let mut received = vec![0; 4 + body.len()];
        let (sent, read) = tokio::join!(frame.write(&mut write), far.read_exact(&mut received));
        sent.unwrap();
        read.unwrap();
        let expected = [&i32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat();
        (received, expected)
    }

    #[tokio::test]
    async fn bytes_and_file_regions_go_out_in_order_over_memory() {
        let (near, far) = tokio::io::duplex(1000);
        let (received, expected) = sent_over(Connection::Memory(near), Connection::Memory(far)).await;
        assert!(received == expected);
    }

    #[tokio::test]
    async fn bytes_and_file_regions_go_out_in_order_over_a_socket() {
        let mut listener = RealNetwork.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (near, far) = tokio::join!(RealNetwork.connect(&address), listener.accept());
        let (received, expected) = sent_over(near.unwrap(), far.unwrap().0).await;
        assert!(received == expected);
    }
}
