//! Frames on a peer connection.
//!
//! ```text
//! connection = 0xC5 "QC" version:u8 frame*
//! frame      = length:u32 crc:u32 body            length of body; little-endian; CRC-32C of body
//! ```
//! 0xC5 as first byte tells a consensus connection from a Kafka one on the same listener: a Kafka request would be
//! longer than 3 GB with it.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::codec::{Put, Take, crc32c};

/// What a consensus connection begins with.
pub const PREAMBLE: [u8; 4] = [0xC5, b'Q', b'C', 1];

/// The memory that a frame gets before its bytes arrive.
const STEP: usize = 64 << 10;

/// Appends a frame. False, and nothing, if the body is too long for the format.
pub(super) fn put_frame(out: &mut Vec<u8>, body: &[u8]) -> bool {
    let Ok(length) = u32::try_from(body.len()) else { return false };
    out.u32(length);
    out.u32(crc32c(&[body]));
    out.bytes(body);
    true
}

/// Writes one frame.
pub(super) async fn write_frame(to: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    let mut out = Vec::with_capacity(8 + body.len());
    if !put_frame(&mut out, body) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    to.write_all(&out).await?;
    to.flush().await
}

/// Reads the preamble.
pub(super) async fn read_preamble(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut preamble = [0; 4];
    from.read_exact(&mut preamble).await?;
    if preamble == PREAMBLE {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "not a consensus connection of this version"))
}

/// Reads one frame of at most `cap` bytes. Memory is taken as the bytes arrive, never because a length says so.
pub(super) async fn read_frame(from: &mut (impl AsyncRead + Unpin), cap: usize) -> io::Result<Bytes> {
    let mut header = [0; 8];
    from.read_exact(&mut header).await?;
    let mut take = Take(&header);
    let (length, crc) = (take.u32().unwrap_or(u32::MAX), take.u32().unwrap_or_default());
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > cap {
        let sentence = format!("a frame of {length} bytes, where at most {cap} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
    }
    let mut body = BytesMut::with_capacity(length.min(STEP));
    while body.len() < length {
        body.reserve((length - body.len()).min(STEP));
        let mut limited = (&mut *from).take((length - body.len()) as u64);
        if limited.read_buf(&mut body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if crc32c(&[&body]) != crc {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame with a wrong checksum"));
    }
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_is_read_as_it_was_written() {
        let (mut here, mut there) = tokio::io::duplex(16);
        let body = vec![7; 300_000];
        let (written, read) = tokio::join!(write_frame(&mut here, &body), read_frame(&mut there, 300_000));
        written.unwrap();
        assert_eq!(read.unwrap(), body);
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_cut_off_or_wrong_is_refused() {
        let mut good = Vec::new();
        put_frame(&mut good, b"body");
        assert!(read_frame(&mut good.as_slice(), 3).await.is_err(), "too long");
        assert!(read_frame(&mut good.get(..10).unwrap(), 9).await.is_err(), "cut off");
        good[11] ^= 1;
        assert!(read_frame(&mut good.as_slice(), 9).await.is_err(), "wrong");
        assert!(read_preamble(&mut [0xC5, b'Q', b'C', 2].as_slice()).await.is_err());
    }
}
