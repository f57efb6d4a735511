use proptest::prelude::*;

use super::{decode::Decoder, encode::Encoder, *};
use crate::http::h2::fields::{Fields, Indexing};

const SIZE_MAX: usize = 64 * 1024;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn listed(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(name, value, _)| (text(name), text(value))).collect()
}

fn decoded(decoder: &mut Decoder, hex: &str) -> Vec<(String, String)> {
    let mut fields = Fields::default();
    decoder.decode(&bytes(hex), &mut fields, SIZE_MAX).unwrap();
    listed(&fields)
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn single_fields_as_in_rfc_7541_c_2() {
    for (hex, name, value, expected) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key",
            "custom-header",
            Indexing::Incremental,
        ),
        ("040c 2f73 616d 706c 652f 7061 7468", ":path", "/sample/path", Indexing::Without),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password", "secret", Indexing::Never),
        ("82", ":method", "GET", Indexing::Incremental),
    ] {
        let mut fields = Fields::default();
        Decoder::default().decode(&bytes(hex), &mut fields, SIZE_MAX).unwrap();
        assert_eq!(fields.iter().collect::<Vec<_>>(), [(name.as_bytes(), value.as_bytes(), expected)]);
    }
}

#[test]
fn requests_as_in_rfc_7541_c_3_and_c_4() {
    let first = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    let second = [&first[..], &[("cache-control", "no-cache")]].concat();
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut decoder = Decoder::default();
        assert_eq!(decoded(&mut decoder, blocks[0]), pairs(&first));
        assert_eq!(decoded(&mut decoder, blocks[1]), pairs(&second));
        assert_eq!(decoded(&mut decoder, blocks[2]), pairs(&third));
    }
}

#[test]
fn responses_as_in_rfc_7541_c_6_drive_each_other_out() {
    let mut decoder = Decoder::default();
    // Its examples have a table of 256 bytes.
    let first = "3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
    let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    let location = ("location", "https://www.example.com");
    assert_eq!(
        decoded(&mut decoder, first),
        pairs(&[(":status", "302"), ("cache-control", "private"), date, location])
    );
    let second = "4883 640e ffc1 c0bf";
    assert_eq!(
        decoded(&mut decoder, second),
        pairs(&[(":status", "307"), ("cache-control", "private"), date, location])
    );
    let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
    assert_eq!(
        decoded(&mut decoder, third),
        pairs(&[
            (":status", "200"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            location,
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ])
    );
}

#[test]
fn what_is_no_block_is_refused() {
    for (hex, what) in [
        ("80", "index 0"),
        ("be", "an entry that nobody has added"),
        ("ffffffffff7f", "a number without bounds"),
        ("40", "a name that is missing"),
        ("0003 6162", "a string beyond the end"),
        ("3fe2 1f", "a table of 4097 bytes"),
        ("82 20", "a size update behind a field"),
        ("0082 ffff 00", "padding of a byte"),
    ] {
        assert_eq!(
            Decoder::default().decode(&bytes(hex), &mut Fields::default(), SIZE_MAX),
            Err(CompressionError),
            "{what}"
        );
    }
}

#[test]
fn a_bomb_takes_no_memory() {
    let (mut decoder, mut fields) = (Decoder::default(), Fields::default());
    let mut block = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    block.extend_from_slice(&[b'x'; 4000]);
    block.extend_from_slice(&[0xbe; 60]);
    let size = decoder.decode(&block, &mut fields, SIZE_MAX).unwrap();
    assert_eq!(size, 61 * 4033);
    assert!(fields.bytes.capacity() <= 2 * SIZE_MAX, "{}", fields.bytes.capacity());
    assert_eq!(decoded(&mut decoder, "be")[0].1.len(), 4000, "the table is what it should be");
    // Nor much time.
    assert_eq!(decoder.decode(&[0xbe; 10_000], &mut fields, SIZE_MAX), Err(CompressionError));
}

#[test]
fn what_comes_again_is_a_byte() {
    let mut encoder = Encoder::default();
    let mut fields = Fields::default();
    for (name, value) in [(":method", "GET"), (":path", "/"), (":authority", "a.test"), ("user-agent", "test")] {
        fields.push(name.as_bytes(), value.as_bytes(), Indexing::Incremental);
    }
    let (mut first, mut second) = (Vec::new(), Vec::new());
    encoder.encode(&fields, &mut first);
    encoder.encode(&fields, &mut second);
    assert_eq!(second, [0x82, 0x84, 0xbf, 0xbe]);
}

#[test]
fn a_smaller_table_is_told_before_the_next_block() {
    let mut encoder = Encoder::default();
    encoder.resize(0);
    encoder.resize(100);
    let mut out = Vec::new();
    encoder.encode(&Fields::default(), &mut out);
    assert_eq!(out, [0x20, 0x3f, 69]);
}

fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Indexing)> {
    let indexing = prop_oneof![Just(Indexing::Incremental), Just(Indexing::Without), Just(Indexing::Never)];
    let name = prop_oneof![
        "[a-z-]{1,12}".prop_map(String::into_bytes),
        proptest::sample::select(&[":method", ":path", ":status", "date", "accept", "cookie", "x"][..])
            .prop_map(|name| name.into()),
    ];
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        proptest::sample::select(&["", "GET", "200", "/", "same"][..]).prop_map(|value| value.into()),
        (0_usize..3000).prop_map(|length| vec![b'x'; length]),
    ];
    (name, value, indexing)
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(blocks in proptest::collection::vec((proptest::collection::vec(field(), 0..12), proptest::option::of(0_usize..5000)), 1..12)) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for (list, size) in blocks {
            let mut fields = Fields::default();
            for (name, value, indexing) in &list {
                fields.push(name, value, *indexing);
            }
            if let Some(size) = size {
                encoder.resize(size);
            }
            let (mut block, mut out) = (Vec::new(), Fields::default());
            encoder.encode(&fields, &mut block);
            prop_assert!(decoder.decode(&block, &mut out, usize::MAX).is_ok());
            prop_assert_eq!(listed(&out), listed(&fields));
            for ((.., sent), (.., came)) in fields.iter().zip(out.iter()) {
                prop_assert!(sent == came || sent == Indexing::Incremental, "{:?} became {:?}", sent, came);
            }
        }
    }

    #[test]
    fn nothing_makes_the_decoder_panic(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..5)) {
        let mut decoder = Decoder::default();
        for block in blocks {
            let _ = decoder.decode(&block, &mut Fields::default(), SIZE_MAX);
        }
    }
}
