//! Length-prefixed frames. A frame's buffer grows as its bytes arrive: a length alone never makes memory.

use std::{io, sync::Arc};

use bytes::{Buf as _, BytesMut};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// The least that is read at once; an idle connection keeps a buffer of this size.
const READ_MIN_BYTES: usize = 2 << 10;
/// The most that is read at once before a frame's length is known, and the first step by which a frame grows.
const READ_MAX_BYTES: usize = 64 << 10;

/// Why no frame came.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The length is negative or larger than the limit.
    #[error("a frame of {length} bytes was announced, the limit is {max}{}", guess(*length))]
    Length {
        /// As it was read.
        length: i32,
        /// The limit, `socket.request.max.bytes` for a server.
        max: usize,
    },
    /// The connection ended inside a frame.
    #[error("the connection ended inside a frame")]
    Truncated,
}

/// The usual reasons for an absurd length.
fn guess(length: i32) -> &'static str {
    match length.to_be_bytes() {
        [0x16, 0x03, ..] => "; this looks like TLS on a plain listener",
        [b'G', b'E', b'T', b' ']
        | [b'P', b'O', b'S', b'T']
        | [b'H', b'E', b'A', b'D']
        | [b'P', b'U', b'T', b' '] => "; this looks like HTTP on a Kafka listener",
        _ => "",
    }
}

/// Memory that frames may hold together. A frame that finds none waits before its bytes are read, so that a flood
/// stays in the senders' sockets.
#[derive(Clone, Debug)]
pub struct FrameMemory {
    free: Arc<Semaphore>,
    total: u32,
}

impl FrameMemory {
    /// Memory for `bytes` of frames in all. A single frame that is larger takes all of it.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(total as usize)), total }
    }

    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total);
        self.free.clone().acquire_many_owned(bytes).await.ok()
    }
}

/// A frame without its length, and the memory that it was given.
#[derive(Debug)]
pub struct Frame {
    /// Header and body.
    pub bytes: BytesMut,
    /// Given back when dropped.
    pub memory: Option<OwnedSemaphorePermit>,
}

/// Reads frames off a connection.
#[derive(Debug)]
pub struct FrameReader<R> {
    input: R,
    buffer: BytesMut,
    max_bytes: usize,
    memory: Option<FrameMemory>,
    /// The frame under way: its length and its memory.
    current: Option<(usize, Option<OwnedSemaphorePermit>)>,
    read_bytes: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames of at most `max_bytes`, bounded by `memory` if there is one.
    #[must_use]
    pub fn new(input: R, max_bytes: usize, memory: Option<FrameMemory>) -> Self {
        Self { input, buffer: BytesMut::new(), max_bytes, memory, current: None, read_bytes: READ_MIN_BYTES }
    }

    /// Whether a part of a frame has come, and not all of it.
    #[must_use]
    pub fn is_inside_frame(&self) -> bool {
        self.current.is_some() || !self.buffer.is_empty()
    }

    /// Whether a whole frame has come, so that [`FrameReader::next`] waits for nothing but memory.
    #[must_use]
    pub fn has_frame(&self) -> bool {
        if let Some((length, _)) = &self.current {
            return self.buffer.len() >= *length;
        }
        let length = self.buffer.first_chunk::<4>().map(|prefix| i32::from_be_bytes(*prefix));
        length.is_some_and(|length| {
            usize::try_from(length).map_or(true, |length| self.buffer.len() - 4 >= length)
        })
    }

    /// The next frame; `None` when the connection ended between frames. Cancel safe.
    ///
    /// # Errors
    /// [`FrameError`]; nothing more can be read then.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.current.is_none() {
            let Some(length) = self.length().await? else { return Ok(None) };
            let memory = match &self.memory {
                Some(memory) => memory.take(length).await,
                None => None,
            };
            self.buffer.advance(4);
            self.current = Some((length, memory));
        }
        let length = self.current.as_ref().map_or(0, |(length, _)| *length);
        while let Some(missing) = length.checked_sub(self.buffer.len()).filter(|missing| *missing > 0) {
            self.buffer.reserve(missing.min(self.buffer.len().max(READ_MAX_BYTES)));
            if self.input.read_buf(&mut self.buffer).await? == 0 {
                return Err(FrameError::Truncated);
            }
        }
        let memory = self.current.take().and_then(|(_, memory)| memory);
        Ok(Some(Frame { bytes: self.buffer.split_to(length), memory }))
    }

    /// The length of the next frame, left in the buffer.
    async fn length(&mut self) -> Result<Option<usize>, FrameError> {
        loop {
            if let Some(prefix) = self.buffer.first_chunk::<4>() {
                let length = i32::from_be_bytes(*prefix);
                let fits = usize::try_from(length).ok().filter(|length| *length <= self.max_bytes);
                return fits.map(Some).ok_or(FrameError::Length { length, max: self.max_bytes });
            }
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
    }

    /// Reads once without knowing how much will come.
    async fn fill(&mut self) -> Result<usize, FrameError> {
        if self.buffer.is_empty() {
            // The frames that were cut from the old buffer keep it alive as long as they live.
            self.buffer = BytesMut::with_capacity(self.read_bytes);
        } else {
            self.buffer.reserve(self.read_bytes);
        }
        let count = self.input.read_buf(&mut self.buffer).await?;
        if count >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_MAX_BYTES);
        } else if count < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_MIN_BYTES);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(bodies: &[&[u8]]) -> Vec<u8> {
        let frame = |body: &&[u8]| [&i32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat();
        bodies.iter().flat_map(frame).collect()
    }

    async fn read_all(input: &[u8], max: usize) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
        let mut reader = FrameReader::new(input, max, None);
        let mut frames = Vec::new();
        loop {
            match reader.next().await {
                Ok(Some(frame)) => frames.push(frame.bytes.to_vec()),
                Ok(None) => return (frames, Ok(())),
                Err(error) => return (frames, Err(error)),
            }
        }
    }

    #[tokio::test]
    async fn frames_come_whole_and_in_order_whatever_their_size() {
        let large = vec![7; 300_000];
        let (frames, end) = read_all(&framed(&[b"one", b"", &large, b"two"]), 1 << 20).await;
        assert_eq!(frames, [b"one".to_vec(), vec![], large, b"two".to_vec()]);
        assert!(end.is_ok());
    }

    #[tokio::test]
    async fn frames_come_whole_when_every_byte_comes_alone() {
        let (mut sender, receiver) = tokio::io::duplex(1);
        let bytes = framed(&[b"hello", b"world"]);
        let mut reader = FrameReader::new(receiver, 100, None);
        let send = async {
            tokio::io::AsyncWriteExt::write_all(&mut sender, &bytes).await.unwrap();
            drop(sender);
        };
        let read = async {
            assert_eq!(&reader.next().await.unwrap().unwrap().bytes[..], b"hello");
            assert_eq!(&reader.next().await.unwrap().unwrap().bytes[..], b"world");
            assert!(reader.next().await.unwrap().is_none());
        };
        tokio::join!(send, read);
    }

    #[tokio::test]
    async fn absurd_lengths_are_refused_before_their_bytes_are_awaited() {
        for length in [-1, i32::MIN, 101, i32::MAX, 0x1603_0100] {
            let (frames, end) = read_all(&length.to_be_bytes(), 100).await;
            assert!(frames.is_empty());
            assert!(matches!(end, Err(FrameError::Length { .. })), "{length}");
        }
        let (_, end) = read_all(b"GET / HTTP/1.1\r\n", 100 << 20).await;
        assert!(end.unwrap_err().to_string().contains("HTTP"));
    }

    #[tokio::test]
    async fn a_connection_that_ends_inside_a_frame_is_an_error() {
        let bytes = framed(&[b"four"]);
        for cut in 1..bytes.len() {
            let (_, end) = read_all(&bytes[..cut], 100).await;
            assert!(matches!(end, Err(FrameError::Truncated)), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn a_frame_waits_for_memory_and_gives_it_back() {
        let memory = FrameMemory::new(10);
        let bytes = framed(&[&[1; 8], &[2; 8]]);
        let mut reader = FrameReader::new(&bytes[..], 100, Some(memory));
        let first = reader.next().await.unwrap().unwrap();
        let mut second = Box::pin(reader.next());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(second.await.unwrap().unwrap().bytes.len(), 8);
    }
}
