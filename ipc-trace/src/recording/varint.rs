//! Numbers of variable length: seven bits a byte, the lowest first, as in LEB128. Signed ones are folded first, so that
//! small ones of either sign are short.

use super::Damage;

/// Appends a number.
#[inline]
pub(super) fn put(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Appends a signed number.
#[inline]
pub(super) fn put_signed(to: &mut Vec<u8>, value: i64) {
    put(to, (value << 1 ^ value >> 63) as u64);
}

/// Appends bytes, after their length.
pub(super) fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

/// The bytes of a column that are still to be read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers<'a>(pub &'a [u8]);

impl<'a> Numbers<'a> {
    /// The next number.
    #[inline]
    pub(super) fn number(&mut self) -> Result<u64, Damage> {
        if let [byte @ 0..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        self.long_number()
    }

    fn long_number(&mut self) -> Result<u64, Damage> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let [byte, rest @ ..] = self.0 else {
                return Err(Damage::Content("a column is too short"));
            };
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Ok(value);
            }
            shift += 7;
            if shift > 63 {
                return Err(Damage::Content("a number is too long"));
            }
        }
    }

    /// The next signed number.
    #[inline]
    pub(super) fn signed(&mut self) -> Result<i64, Damage> {
        let folded = self.number()?;
        Ok((folded >> 1) as i64 ^ -((folded & 1) as i64))
    }

    /// The next number, which must fit.
    #[inline]
    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, Damage> {
        T::try_from(self.number()?).map_err(|_| Damage::Content("a number is too large"))
    }

    /// The next bytes.
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let Some((bytes, rest)) = self.0.split_at_checked(len) else {
            return Err(Damage::Content("a column is too short"));
        };
        self.0 = rest;
        Ok(bytes)
    }

    /// The next bytes, before which their length is.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let len = self.small()?;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_read_as_they_were_written(value: u64, signed: i64, bytes: Vec<u8>) {
            let mut to = Vec::new();
            put(&mut to, value);
            put_signed(&mut to, signed);
            put_bytes(&mut to, &bytes);
            let mut from = Numbers(&to);
            prop_assert_eq!(from.number(), Ok(value));
            prop_assert_eq!(from.signed(), Ok(signed));
            prop_assert_eq!(from.bytes(), Ok(&bytes[..]));
            prop_assert!(from.number().is_err());
        }
    }
}
