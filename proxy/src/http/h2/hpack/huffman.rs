//! The Huffman code of HPACK (RFC 7541 appendix B), which is canonical: the lengths of its codes say all of it. Pure.

use super::CompressionError;

/// How many bits each byte's code has, and the end's, which never comes.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15,
    6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20,
    20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23,
    24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22,
    22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27,
    24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26,
    26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
/// Codes of so many bits are looked up at once: those of all that is usual in fields.
const SHORT_BITS: u32 = 10;
const LONGEST: usize = 30;

/// What the code is made of.
struct Code {
    /// By the next [`SHORT_BITS`] bits: the symbol, and the length of its code; 0 for one that is longer.
    short: [(u8, u8); 1 << SHORT_BITS],
    /// By length: the first code, and where its symbol is in `symbols`.
    first: [(u32, u16); LONGEST + 2],
    /// By length, and then as they are.
    symbols: [u16; 257],
}

static CODE: Code = Code::new();

impl Code {
    const fn new() -> Self {
        let mut code = Self { short: [(0, 0); 1 << SHORT_BITS], first: [(0, 0); LONGEST + 2], symbols: [0; 257] };
        let (mut next, mut count, mut length) = (0_u32, 0_usize, 1_usize);
        while length <= LONGEST {
            next <<= 1;
            code.first[length] = (next, count as u16);
            let mut symbol = 0;
            while symbol < 257 {
                if LENGTHS[symbol] as usize == length {
                    code.symbols[count] = symbol as u16;
                    code.shorten(next, length as u32, symbol as u8);
                    count += 1;
                    next += 1;
                }
                symbol += 1;
            }
            length += 1;
        }
        code.first[LONGEST + 1] = (u32::MAX, count as u16);
        code
    }

    const fn shorten(&mut self, code: u32, length: u32, symbol: u8) {
        if length <= SHORT_BITS {
            let mut at = (code << (SHORT_BITS - length)) as usize;
            let end = ((code + 1) << (SHORT_BITS - length)) as usize;
            while at < end {
                self.short[at] = (symbol, length as u8);
                at += 1;
            }
        }
    }

    /// The symbol that `bits` begin with, which are the highest of them, and the length of its code; 256 is the end.
    fn long(&self, bits: u32) -> (u16, u32) {
        for length in SHORT_BITS as usize + 1..=LONGEST {
            let (first, place) = self.first[length];
            let count = self.first[length + 1].1 - place;
            let code = bits >> (32 - length);
            if let Some(nth) = code.checked_sub(first).filter(|nth| *nth < u32::from(count)) {
                return (self.symbols[usize::from(place) + nth as usize], length as u32);
            }
        }
        (256, LONGEST as u32)
    }
}

/// Appends to `out` what `coded` stands for.
///
/// # Errors
/// When the end is in it, or its padding is none (RFC 7541 section 5.2).
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
    // The bits that are not used yet are the highest of `bits`.
    let (mut bits, mut left, mut coded) = (0_u64, 0_u32, coded);
    loop {
        while left <= 32
            && let Some((byte, rest)) = coded.split_first()
        {
            bits |= u64::from(*byte) << (56 - left);
            (left, coded) = (left + 8, rest);
        }
        let (symbol, length) = match CODE.short[(bits >> (64 - SHORT_BITS)) as usize] {
            (_, 0) => CODE.long((bits >> 32) as u32),
            (symbol, length) => (u16::from(symbol), u32::from(length)),
        };
        if length > left {
            // What is left is padding: less than a byte, and ones.
            let is_padding = left < 8 && bits == !(u64::MAX.checked_shr(left).unwrap_or(0));
            return if is_padding { Ok(()) } else { Err(CompressionError) };
        }
        out.push(u8::try_from(symbol).map_err(|_| CompressionError)?);
        (bits, left) = (bits << length, left - length);
    }
}

/// Appends the code of `plain` to `out`.
#[cfg(test)]
pub(super) fn encode(plain: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u64, 0_u32);
    for byte in plain {
        let length = usize::from(LENGTHS[usize::from(*byte)]);
        let (first, place) = CODE.first[length];
        let nth = CODE.symbols[usize::from(place)..].iter().position(|symbol| *symbol == u16::from(*byte));
        bits = (bits << length) | u64::from(first + nth.expect("every byte has a code") as u32);
        count += length as u32;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        out.push(((bits << (8 - count)) as u8) | (0xff >> count));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn padding_is_ones_and_less_than_a_byte() {
        let decoded = |coded: &[u8]| {
            let mut out = Vec::new();
            decode(coded, &mut out).map(|()| out)
        };
        assert_eq!(decoded(&[0x1f]), Ok(b"a".to_vec()));
        assert_eq!(decoded(&[0x1e]), Err(CompressionError), "zeros");
        assert_eq!(decoded(&[0x1f, 0xff]), Err(CompressionError), "too long");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(CompressionError), "the end");
        assert_eq!(decoded(&[]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn what_was_coded_is_decoded(plain in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut coded, mut out) = (Vec::new(), Vec::new());
            encode(&plain, &mut coded);
            prop_assert_eq!(decode(&coded, &mut out), Ok(()));
            prop_assert_eq!(out, plain);
        }
    }
}
