use super::*;

#[test]
fn counts_without_bytes_behind_them_are_refused() {
    // The cases that made a decoder reserve hundreds of gigabytes.
    let metadata = "[ u10+ s ] b4+ b8-10 b8+";
    assert_eq!(check(metadata, &[0x7f, 0xff, 0xff, 0xff], 1, false), Err(Malformed::CountTooLarge));
    assert_eq!(check(metadata, &[0xff, 0xff, 0xff, 0xff, 0x0f], 12, true), Err(Malformed::CountTooLarge));
    let create = "[ s i h [ i ( i ) ] [ s s ] ] i b";
    assert_eq!(check(create, &[0x01, 0, 0, 0], 2, false), Err(Malformed::CountTooLarge));
    assert_eq!(check(metadata, &[0xff, 0xff, 0xff, 0xfe], 1, false), Err(Malformed::NegativeLength));
    assert_eq!(
        check(metadata, &[0xff, 0xff, 0xff, 0xff], 1, false),
        Ok(()),
        "null is an array of all topics"
    );
}

#[test]
fn elements_have_a_budget_across_the_whole_message() {
    let many = |count: usize| {
        let mut bytes = i32::try_from(count).unwrap().to_be_bytes().to_vec();
        bytes.resize(4 + 2 * count, 0);
        bytes
    };
    assert_eq!(check("[ s ]", &many(ELEMENTS_MAX), 0, false), Ok(()));
    assert_eq!(check("[ s ]", &many(ELEMENTS_MAX + 1), 0, false), Err(Malformed::TooManyElements));
    let half = many(ELEMENTS_MAX / 2 + 1);
    assert_eq!(check("[ s ] ( h )", &[&half[..], &half].concat(), 0, false), Err(Malformed::TooManyElements));
}

#[test]
fn tagged_fields_count_as_elements_and_must_ascend() {
    assert_eq!(check("b", &[1, 2, 0, 0, 5, 1, 9], 0, true), Ok(()));
    assert_eq!(check("b", &[1, 2, 5, 0, 0, 0], 0, true), Err(Malformed::TagOrder));
    assert_eq!(check("b", &[1, 2, 5, 0, 5, 0], 0, true), Err(Malformed::TagOrder));
    let mut many = vec![1, 0xff, 0xff, 0xff, 0xff, 0x0f];
    for tag in 0..200_000u32 {
        many.extend([0x80, 0x80, 0x80].iter().zip(tag.to_le_bytes()).map(|(high, low)| high | (low & 0x7f)));
        many.extend([u8::try_from(tag >> 21).unwrap(), 0]);
    }
    assert!(check("b", &many, 0, true).is_err());
}

#[test]
fn a_known_tag_is_walked_and_must_end_where_it_says() {
    let shape = "b <1+ 0 ( u ) >";
    let mut bytes = vec![1, 1, 0, 17, 2];
    bytes.extend([7; 16]);
    bytes.push(0);
    assert_eq!(check(shape, &bytes[..21], 1, true), Ok(()));
    assert_eq!(check(shape, &bytes[..21], 0, true), Err(Malformed::Version));
    bytes[3] = 18;
    assert_eq!(check(shape, &bytes, 1, true), Err(Malformed::TagLength));
    assert_eq!(
        check(shape, &[1, 1, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x0f], 1, true),
        Err(Malformed::CountTooLarge)
    );
}

#[test]
fn strings_and_trailing_bytes_are_checked() {
    assert_eq!(check("s", &[0, 3, b'a', b'b'], 0, false), Err(Malformed::Truncated));
    assert_eq!(check("s", &[0xff, 0xfe], 0, false), Err(Malformed::NegativeLength));
    assert_eq!(check("s", &[0, 1, 0xff], 0, false), Err(Malformed::NotUtf8));
    assert_eq!(check("y", &[0xff, 0xff, 0xff, 0xfb], 0, false), Err(Malformed::NegativeLength));
    assert_eq!(check("s i", &[0, 0, 0, 0, 0, 1, 9], 0, false), Err(Malformed::Trailing));
    assert_eq!(check("s", &[0x80, 0x80, 0x80, 0x80, 0x80, 0x01], 0, true), Err(Malformed::Varint));
}

#[test]
fn versions_choose_fields() {
    let shape = "b4+ h8-10 i-2";
    assert_eq!(check(shape, &[0; 4], 0, false), Ok(()));
    assert_eq!(check(shape, &[], 3, false), Ok(()));
    assert_eq!(check(shape, &[0; 1], 4, false), Ok(()));
    assert_eq!(check(shape, &[0; 3], 8, false), Ok(()));
    assert_eq!(check(shape, &[0; 1], 11, false), Ok(()));
}
