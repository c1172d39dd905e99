//! The projects that are played, one per engine.

use super::{Project, Registry, Release};

/// Patterns of paths, in Python. Its changelog for 0.12.1 (2023-12-10) reads:
/// "Issue #84: PathSpec.match_file() returns None since 0.12.0."
pub const fn of_paths() -> Project {
    Project {
        name: "pathspec",
        registry: Registry::Pypi,
        before: Release {
            version: "0.12.0",
            sha256: "c57e16065a97b7beb175f13c84d27cb05f7b7315741c2fbd5de541042f4ea6e1",
        },
        after: Release {
            version: "0.12.1",
            sha256: "a482d51503a1ab33b1c67a6c3813a26953dbdc71c31dacaef9a838c4e29f5712",
        },
        sources: &["pathspec/pathspec.py"],
        package: "python3",
        check: "python3 -m unittest",
        issue: (
            "PathSpec.match_file() returns None since 0.12.0",
            "`PathSpec.match_file()` is documented to return a `bool`. Since 0.12.0 it returns\n\
             `None` for a file that no pattern matches:\n\
             \n\
             ```python\n\
             >>> PathSpec.from_lines('gitwildmatch', ['*.txt']).match_file('a.py') is None\n\
             True\n\
             ```\n\
             \n\
             Expected `False`, as in 0.11.\n",
        ),
        test_path: "tests/test_05_match_file.py",
        test_text: r#""""
match_file() returns a bool, whatever the patterns say of the file.
"""

import unittest

from pathspec import PathSpec


class MatchFileTest(unittest.TestCase):

	def setUp(self):
		self.spec = PathSpec.from_lines('gitwildmatch', ['*.txt', '!keep.txt'])

	def test_included(self):
		self.assertIs(self.spec.match_file('a.txt'), True)

	def test_excluded_again(self):
		self.assertIs(self.spec.match_file('keep.txt'), False)

	def test_not_mentioned(self):
		self.assertIs(self.spec.match_file('a.py'), False)
"#,
    }
}

/// The opposite of `format()`, in Python. Its history for 1.18.0 reads: "Correct
/// bug in int parsing introduced in 1.16.0".
pub const fn of_numbers() -> Project {
    Project {
        name: "parse",
        registry: Registry::Pypi,
        before: Release {
            version: "1.17.0",
            sha256: "c7806139a481ec8c8336a54418894c8b201314f8ecc63e55f438f4b72bdc4485",
        },
        after: Release {
            version: "1.18.0",
            sha256: "91666032d6723dc5905248417ef0dc9e4c51df9526aaeef271eacad6491f06a4",
        },
        sources: &["parse.py"],
        package: "python3",
        check: "python3 -m unittest",
        issue: (
            "A parser remembers the base of the first number",
            "A parser that read a decimal number reads binary ones as decimal from then on:\n\
             \n\
             ```python\n\
             >>> parser = parse.Parser('{:d}')\n\
             >>> parser.parse('1234')[0], parser.parse('0b1011')[0]\n\
             ValueError: invalid literal for int() with base 10: '01011'\n\
             ```\n\
             \n\
             Expected `(1234, 11)`, as before 1.16.\n",
        ),
        test_path: "test_bases.py",
        test_text: r#"import unittest

import parse


class BasesTest(unittest.TestCase):
    def test_each_number_has_its_own_base(self):
        parser = parse.Parser("{:d}")
        self.assertEqual(parser.parse("1234")[0], 1234)
        self.assertEqual(parser.parse("0b1011")[0], 0b1011)
        self.assertEqual(parser.parse("0x1f")[0], 0x1F)
"#,
    }
}

/// A parser of CSV, in Rust. Issue 382 of its repository reads: "Reader::reset
/// doesn't reset ends"; 0.1.12 is the release with the commit that fixes it
/// (2025-02-12), with a test in the same file.
pub const fn of_csv() -> Project {
    Project {
        name: "csv-core",
        registry: Registry::Crates {
            // The newest that Debian 12's cargo can build.
            needs: &[
                (
                    "arrayvec",
                    Release {
                        version: "0.5.2",
                        sha256: "23b62fc65de8e4e7f52534fb52b0f3ed04746ae267519eef2a83941e8085068b",
                    },
                ),
                (
                    "memchr",
                    Release {
                        version: "2.7.4",
                        sha256: "78ca9ab1a0babb1e7d5695e3530886289c18cf2f87ec19a575a0abdce112e3a3",
                    },
                ),
            ],
        },
        before: Release {
            version: "0.1.11",
            sha256: "5efa2b3d7902f4b634a20cae3c9c4e6209dc4779feb6863329607560143efa70",
        },
        after: Release {
            version: "0.1.12",
            sha256: "7d02f3b0da4c6504f86e9cd789d8dbafab48c2321be74e9987593de5a894d93d",
        },
        sources: &["src/reader.rs"],
        package: "cargo",
        check: "cargo test --offline",
        issue: (
            "Reader::reset does not reset where fields end",
            "A `Reader` that stopped in the middle of a record and was reset counts on from there.\n\
             The ends of the next record's fields are then too large:\n\
             \n\
             ```rust\n\
             reader.read_record(b\"some,unfinished\", &mut output, &mut ends);\n\
             reader.reset();\n\
             reader.read_record(b\"a,bc\\n\", &mut output, &mut ends);\n\
             // ends begins with 15 and 17\n\
             ```\n\
             \n\
             Expected 1 and 3: `reset` is documented to make a parser behave as if it had never\n\
             been used.\n",
        ),
        test_path: "tests/reset.rs",
        test_text: r#"//! A reader that was reset begins anew.

use csv_core::{ReadRecordResult, Reader};

#[test]
fn fields_end_where_they_do_for_a_new_reader() {
    let (mut output, mut ends) = ([0; 64], [0; 8]);
    let mut reader = Reader::new();
    let (result, ..) = reader.read_record(b"some,unfinished", &mut output, &mut ends);
    assert_eq!(result, ReadRecordResult::InputEmpty);

    reader.reset();
    let (result, _, _, fields) = reader.read_record(b"a,bc\n", &mut output, &mut ends);
    assert_eq!(result, ReadRecordResult::Record);
    assert_eq!(ends[..fields], [1, 3]);
    assert_eq!(output[..3], *b"abc");
}
"#,
    }
}
