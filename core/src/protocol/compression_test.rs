use proptest::prelude::*;

use std::io::Write as _;

use super::*;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn compressed(codec: Codec, plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    compress(codec.into(), plain, &mut bytes).unwrap();
    bytes
}

fn decompressed(codec: Codec, bytes: &[u8], cap: u64) -> Result<Vec<u8>, CompressionError> {
    let mut plain = Vec::new();
    Decompressor::new(codec, bytes, cap)?.read_to_end(&mut plain)?;
    Ok(plain)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_compressed_comes_back(plain in prop::collection::vec(any::<u8>(), 0..100_000), repeats in 1..4_usize) {
        let plain = plain.repeat(repeats);
        for codec in CODECS {
            prop_assert_eq!(&decompressed(codec, &compressed(codec, &plain), 1 << 20).unwrap(), &plain);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        for codec in CODECS {
            let _ = decompressed(codec, &bytes, 1 << 20);
        }
    }

    #[test]
    fn damaged_streams_end(
        plain in prop::collection::vec(0..4_u8, 1..5_000),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        for codec in CODECS {
            let mut bytes = compressed(codec, &plain);
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = decompressed(codec, &bytes, 1 << 20);
        }
    }
}

#[test]
fn a_stream_cut_anywhere_is_an_error() {
    let plain: Vec<u8> = (0..1_000_u32).flat_map(|number| number.to_be_bytes()).collect();
    for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
        let bytes = compressed(codec, &plain);
        for cut in 1..bytes.len() {
            assert!(decompressed(codec, &bytes[..cut], 1 << 20).is_err(), "{codec:?} cut at {cut}");
        }
    }
}

#[test]
fn a_bomb_of_two_gibibytes_is_refused_at_the_cap() {
    let zeros = vec![0; 16 << 20];
    for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
        // Frames and members one after the other are one stream, which makes a large bomb cheap to build.
        let bytes = compressed(codec, &zeros);
        let bomb = if codec == Codec::Lz4 { bytes } else { bytes.repeat(128) };
        assert_eq!(
            decompressed(codec, &bomb, 8 << 20),
            Err(CompressionError::TooLarge(8 << 20)),
            "{codec:?}"
        );
    }
    let mut decompressor = Decompressor::new(Codec::Snappy, &[], 10).unwrap();
    assert_eq!(decompressor.fill(&mut [0; 10]), Ok(0));
    let snappy = compressed(Codec::Snappy, &zeros);
    assert!(matches!(decompressed(Codec::Snappy, &snappy, 8 << 20), Err(CompressionError::TooLarge(_))));
}

#[test]
fn a_snappy_block_may_not_claim_more_than_it_can_hold() {
    // A varint of 4 GiB and one literal byte: seven bytes that once made readers allocate four gibibytes.
    let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, 0x61];
    let error = decompressed(Codec::Snappy, &claim, u64::MAX).unwrap_err();
    assert!(matches!(error, CompressionError::Corrupt(_)), "{error}");
    let mut framed = XERIAL_MAGIC.to_vec();
    framed.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    framed.extend_from_slice(&i32::MAX.to_be_bytes());
    assert!(decompressed(Codec::Snappy, &framed, 1 << 20).is_err());
}

#[test]
fn empty_snappy_blocks_make_progress() {
    let mut bytes = XERIAL_MAGIC.to_vec();
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    for _ in 0..10_000 {
        // A block of one byte that holds nothing.
        bytes.extend_from_slice(&[0, 0, 0, 1, 0]);
    }
    assert_eq!(decompressed(Codec::Snappy, &bytes, 1 << 20).unwrap(), []);
}

#[test]
fn raw_snappy_is_read_like_the_framed_one() {
    let plain = b"one block, as franz-go writes it".repeat(50);
    let raw = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
    assert_eq!(decompressed(Codec::Snappy, &raw, 1 << 20).unwrap(), plain);
}

#[test]
fn a_zstd_window_beyond_kafkas_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(31).unwrap();
    encoder.write_all(&vec![7; 1 << 16]).unwrap();
    // Flushed before the end, so that the frame has to name its window.
    encoder.flush().unwrap();
    encoder.write_all(b"more").unwrap();
    let bytes = encoder.finish().unwrap();
    assert!(matches!(decompressed(Codec::Zstd, &bytes, 1 << 20), Err(CompressionError::Corrupt(_))));
}

#[test]
fn lz4_frames_that_clients_do_not_read_are_refused() {
    let plain = b"dependent".repeat(20_000);
    let info = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Linked);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(&plain).unwrap();
    assert!(decompressed(Codec::Lz4, &encoder.finish().unwrap(), 1 << 20).is_err());

    let mut wrong_header_checksum = compressed(Codec::Lz4, &plain);
    wrong_header_checksum[6] ^= 0xff;
    assert!(decompressed(Codec::Lz4, &wrong_header_checksum, 1 << 20).is_err());

    let mut trailing = compressed(Codec::Lz4, &plain);
    trailing.push(0);
    assert!(decompressed(Codec::Lz4, &trailing, 1 << 20).is_err());
}

#[test]
fn levels_beyond_the_scale_are_its_ends() {
    for codec in CODECS {
        for level in [i32::MIN, -1, 0, 9, 22, i32::MAX] {
            let mut bytes = Vec::new();
            compress(Compression { codec, level: Some(level) }, b"level", &mut bytes).unwrap();
            assert_eq!(decompressed(codec, &bytes, 100).unwrap(), b"level", "{codec:?} {level}");
        }
    }
}

#[test]
fn recompression_keeps_the_bytes_and_stops_at_its_limit() {
    let plain: Vec<u8> = (0..100_000_u32).flat_map(|number| (number / 3).to_be_bytes()).collect();
    for from in CODECS {
        let bytes = compressed(from, &plain);
        for to in CODECS {
            let mut again = b"head".to_vec();
            let source = Decompressor::new(from, &bytes, 1 << 20).unwrap();
            recompress(source, to.into(), &mut again, 1 << 20).unwrap();
            assert_eq!(decompressed(to, &again[4..], 1 << 20).unwrap(), plain);

            let source = Decompressor::new(from, &bytes, 1 << 20).unwrap();
            let result = recompress(source, to.into(), &mut Vec::new(), 100);
            assert_eq!(result, Err(CompressionError::TooLarge(100)), "{from:?} to {to:?}");
        }
    }
}
