//! Parses strace's output of a call: text in, a tree out.
//!
//! Invariant: it knows the grammar and no system call, and guesses nothing: unknown syntax is an error that
//! shows the text.

use std::str::FromStr;

/// One line of strace about a call: `[  64] semget(0x1, 2, 0600) = -1 ENOENT (No such file)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StraceLine {
    /// The system call's number, in the caller's ABI
    pub(crate) number: u32,
    /// Its name; of `ipc(2)`, that of the call which it stands for
    pub(crate) name: String,
    /// Its arguments
    pub(crate) args: Vec<Arg>,
    /// Whether these are all of them: they are not when the thread died within the call
    pub(crate) complete: bool,
    /// Its outcome
    pub(crate) outcome: StraceOutcome,
}

/// The outcome of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StraceOutcome {
    /// A result
    Value(i64),
    /// An error's name, also of those which only the kernel knows, as `ERESTARTSYS`
    Error(String),
    /// strace does not know: the thread died within the call
    Unknown,
}

/// An argument, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// A number, with or without a sign
    Number(i128),
    /// `NULL`
    Null,
    /// A string's bytes
    Text(Vec<u8>),
    /// `{name=…, …}`
    Struct(Vec<(String, Self)>),
    /// `[…, …]`
    List(Vec<Self>),
    /// `... /* 0x… */`: memory that could not be read any further
    Cut,
}

impl Arg {
    /// A member of a struct.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        let Self::Struct(members) = self else { return None };
        members.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

impl FromStr for StraceLine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut reader = LineReader { rest: text };
        reader.line().map_err(|error| format!("{error} at {:?} in {text:?}", reader.rest))
    }
}

struct LineReader<'a> {
    rest: &'a str,
}

impl<'a> LineReader<'a> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest.strip_prefix(token).inspect(|rest| self.rest = rest).is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("no {token:?}")) }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn word(&mut self) -> Result<String, String> {
        match self.take_while(|c| c.is_ascii_alphanumeric() || c == '_') {
            "" => Err("no word".to_owned()),
            word => Ok(word.to_owned()),
        }
    }

    fn line(&mut self) -> Result<StraceLine, String> {
        self.expect("[")?;
        self.take_while(|c| c == ' ');
        let number = self.take_while(|c| c.is_ascii_digit()).parse().map_err(|_| "no number")?;
        self.expect("] ")?;
        let name = self.word()?;
        self.expect("(")?;
        let (mut args, mut complete) = (Vec::new(), true);
        if !self.eat(")") {
            loop {
                // "a,  <unfinished ...>) = ?"
                self.take_while(|c| c == ' ');
                // "a, ) = ?", of a thread that was killed before strace had read the rest
                if self.eat("<unfinished ...>")
                    || !args.is_empty() && self.rest.starts_with(") = ?")
                {
                    complete = false;
                    break;
                }
                args.push(self.arg()?);
                if !self.eat(",") {
                    break;
                }
            }
            // An unfinished line may lack everything from here on.
            if !self.eat(")") && complete {
                return Err("no \")\"".to_owned());
            }
        }
        self.take_while(|c| c == ' ');
        let outcome = if !complete && self.rest.is_empty() {
            StraceOutcome::Unknown
        } else {
            self.expect("= ")?;
            self.outcome()?
        };
        Ok(StraceLine { number, name, args, complete, outcome })
    }

    fn outcome(&mut self) -> Result<StraceOutcome, String> {
        let unknown = self.eat("?");
        if unknown && (self.rest.is_empty() || self.eat(" <unavailable>")) {
            return Ok(StraceOutcome::Unknown);
        }
        if unknown || self.eat("-1") {
            self.expect(" ")?;
            let name = self.word()?;
            return if name.starts_with('E') {
                Ok(StraceOutcome::Error(name))
            } else {
                Err("no error".to_owned())
            };
        }
        match self.number()? {
            value if self.rest.is_empty() => {
                i64::try_from(value).map(StraceOutcome::Value).map_err(|_| "too large".to_owned())
            }
            _ => Err("no end".to_owned()),
        }
    }

    fn arg(&mut self) -> Result<Arg, String> {
        let arg = match self.rest.bytes().next() {
            Some(b'{') => Arg::Struct(self.list("{", "}", Self::named)?),
            Some(b'[') => Arg::List(self.list("[", "]", Self::arg)?),
            Some(b'"') => Arg::Text(self.string()?),
            Some(b'N') => {
                self.expect("NULL")?;
                Arg::Null
            }
            Some(b'.') => {
                self.expect("...")?;
                Arg::Cut
            }
            _ => Arg::Number(self.number()?),
        };
        if self.eat(" /* ") {
            let end = self.rest.find(" */").ok_or("no end of a comment")?;
            self.rest = &self.rest[end + 3..];
        }
        Ok(arg)
    }

    fn named(&mut self) -> Result<(String, Arg), String> {
        let name = self.word()?;
        self.expect("=")?;
        Ok((name, self.arg()?))
    }

    fn list<T>(
        &mut self,
        begin: &str,
        end: &str,
        one: impl Fn(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        self.expect(begin)?;
        let mut all = Vec::new();
        if self.eat(end) {
            return Ok(all);
        }
        loop {
            all.push(one(self)?);
            if self.eat(end) {
                return Ok(all);
            }
            self.expect(", ")?;
        }
    }

    /// `"\x61\x62"`, as `-xx` prints all strings; and dots where there was more.
    fn string(&mut self) -> Result<Vec<u8>, String> {
        self.expect("\"")?;
        let mut bytes = Vec::new();
        while self.eat("\\x") {
            let digits = self.rest.get(..2).ok_or("half a byte")?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| "no byte")?);
            self.rest = &self.rest[2..];
        }
        self.expect("\"")?;
        self.eat("...");
        Ok(bytes)
    }

    /// Terms joined by `|`, each a number or `N<<M`.
    fn number(&mut self) -> Result<i128, String> {
        let mut value = self.term()?;
        while self.eat("|") {
            value |= self.term()?;
        }
        Ok(value)
    }

    fn term(&mut self) -> Result<i128, String> {
        let number = self.literal()?;
        if !self.eat("<<") {
            return Ok(number);
        }
        let bits = u32::try_from(self.literal()?).ok();
        bits.and_then(|bits| number.checked_shl(bits)).ok_or_else(|| "too far a shift".to_owned())
    }

    /// Hexadecimal with `0x`, octal with another leading 0, else decimal.
    fn literal(&mut self) -> Result<i128, String> {
        let sign = if self.eat("-") { -1 } else { 1 };
        let radix = if self.eat("0x") {
            16
        } else if self.rest.starts_with('0') {
            8
        } else {
            10
        };
        let digits = self.take_while(|c| c.is_digit(radix));
        i128::from_str_radix(digits, radix).map(|n| sign * n).map_err(|_| "no number".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> StraceLine {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_have_three_bases_and_are_joined() {
        let line = read("[  29] shmget(0xa15b, 8388608, 0x3fffe00|63<<26|0777) = 30277641");
        assert_eq!((line.number, line.name.as_str()), (29, "shmget"));
        let flags = 0x03ff_fe00 | 63 << 26 | 0o777;
        assert_eq!(line.args, [0xa15b, 8_388_608, flags].map(Arg::Number));
        assert_eq!(line.outcome, StraceOutcome::Value(30_277_641));
        let line = read("[  30] shmat(-1, NULL, 000) = 0x7f3fd39d4000");
        assert_eq!(line.args, [Arg::Number(-1), Arg::Null, Arg::Number(0)]);
        assert_eq!(line.outcome, StraceOutcome::Value(0x7f3f_d39d_4000));
    }

    #[test]
    fn structures_lists_and_strings_are_parsed() {
        let line =
            read("[ 220] semtimedop(1, [{sem_num=1, sem_op=-2}, ... /* 0x7ffc */], 9, NULL) = 0");
        let one = [("sem_num", 1), ("sem_op", -2)];
        let one = one.map(|(name, value)| (name.to_owned(), Arg::Number(value))).to_vec();
        assert_eq!(line.args[1], Arg::List(vec![Arg::Struct(one), Arg::Cut]));
        let line = read(r#"[  69] msgsnd(0, {mtype=1, mtext="\x61\x00"...}, 7, 0) = 0"#);
        assert_eq!(line.args[1].member("mtext"), Some(&Arg::Text(b"a\0".to_vec())));
        assert_eq!(line.args[1].member("mtypes"), None);
        let line = read("[ 117] semctl(2, 3, 0x100|0xc, [NULL]) = 324");
        assert_eq!(line.args[3], Arg::List(vec![Arg::Null]));
    }

    #[test]
    fn errors_have_names_and_killed_threads_leave_unfinished_lines() {
        let outcome = |end: &str| read(&format!("[  70] msgrcv(0) = {end}")).outcome;
        assert_eq!(
            outcome("-1 EINVAL (Invalid argument)"),
            StraceOutcome::Error("EINVAL".to_owned())
        );
        assert_eq!(
            outcome("? ERESTARTNOHAND (To be restarted if no handler)"),
            StraceOutcome::Error("ERESTARTNOHAND".to_owned())
        );
        assert_eq!(outcome("?"), StraceOutcome::Unknown);
        assert_eq!(outcome("? <unavailable>"), StraceOutcome::Unknown);
        for text in [
            "[  70] msgrcv(5,  <unfinished ...>) = ?",
            "[  70] msgrcv(5,  <unfinished ...>",
            "[  70] msgrcv(5, ) = ? <unavailable>",
        ] {
            let line = read(text);
            assert_eq!((line.args, line.complete), (vec![Arg::Number(5)], false), "{text}");
            assert_eq!(line.outcome, StraceOutcome::Unknown, "{text}");
        }
    }

    #[test]
    fn unknown_syntax_is_an_error() {
        for text in [
            "",
            "semget(1) = 0",
            "[  64] semget(1",
            "[  64] semget(1)",
            "[  64] semget(1) = ",
            "[  64] semget(1) = -1 (nothing)",
            "[  64] semget(1) = 5 and more",
            "[  64] semget(IPC_PRIVATE) = 0",
            "[  64] semget({a=1) = 0",
            "[  64] semget(1, ) = 0",
            "[ 240] mq_open(\"plain\") = 0",
        ] {
            assert!(text.parse::<StraceLine>().is_err(), "{text}");
        }
    }
}
