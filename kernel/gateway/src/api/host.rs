//! What an engine says of the machine that it runs on.

use bytes::Bytes;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// What stands before a kernel's version in an engine's own words (`OS Version: Linux 6.1.0`).
const SYSTEM: &[u8] = b"Linux ";

/// The version of the kernel, which a container shares with its host.
static KERNEL: LazyLock<Vec<u8>> =
    LazyLock::new(|| rustix::system::uname().release().to_bytes().to_vec());

/// A request without the version of the host's kernel: it is nobody's affair which holes
/// the machine has, and no engine needs it.
pub(super) fn without_kernel(body: Bytes) -> Bytes {
    without(&KERNEL, body)
}

/// `body` as it is, or a copy in which `version` stands nowhere behind the system's name.
fn without(version: &[u8], body: Bytes) -> Bytes {
    let named = [SYSTEM, version].concat();
    let finder = Finder::new(&named);
    let mut kept = Vec::new();
    let mut from = 0;
    for found in finder.find_iter(&body) {
        // The beginning of a longer version is not this one.
        let goes_on = match body.get(found + named.len()..) {
            Some([b'.', next, ..] | [next, ..]) => {
                next.is_ascii_alphanumeric() || b"_+-".contains(next)
            }
            Some([]) | None => false,
        };
        if version.is_empty() || goes_on {
            continue;
        }
        kept.extend_from_slice(&body[from..found + SYSTEM.len() - 1]);
        from = found + named.len();
    }
    match from {
        0 => body,
        _ => {
            kept.extend_from_slice(&body[from..]);
            Bytes::from(kept)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_kernel_is_not_told_and_nothing_else_is_lost() {
        for (body, told) in [
            (
                r"OS Version: Linux 6.1.0-9-amd64\n - x",
                r"OS Version: Linux\n - x",
            ),
            ("Linux 6.1.0-9-amd64", "Linux"),
            ("Linux 6.1.0-9-amd64, Linux 6.1.0-9-amd64.", "Linux, Linux."),
            (
                "Linux 6.1.0-9-amd64-rt, 6.1.0-9-amd64",
                "Linux 6.1.0-9-amd64-rt, 6.1.0-9-amd64",
            ),
            ("", ""),
        ] {
            let got = without(b"6.1.0-9-amd64", Bytes::from_static(body.as_bytes()));
            assert_eq!(got, told.as_bytes(), "{body}");
        }
        assert_eq!(without(b"", Bytes::from_static(b"Linux ")), "Linux ");
    }

    #[test]
    fn this_hosts_kernel_is_known() {
        let told = without_kernel(Bytes::from([SYSTEM, &KERNEL, b"\""].concat()));
        assert_eq!(told, "Linux\"");
    }
}
