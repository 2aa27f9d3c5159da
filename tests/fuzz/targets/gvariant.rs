//! GVariants: what is in normal form is what its children are when they are
//! written anew, and nothing else is.
//!
//! An input is a type in the first line, and the value in the rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostree_serve::format::gvariant::Value;

// The unit tests' writer, which shares no code with the reader.
#[allow(dead_code)]
#[path = "../../../src/format/gvariant/writer.rs"]
mod writer;

fuzz_target!(|input: &[u8]| {
    let Some(line_end) = input.iter().position(|&byte| byte == b'\n') else {
        return;
    };
    let Ok(kind) = std::str::from_utf8(&input[..line_end]) else {
        return;
    };
    let data = &input[line_end + 1..];
    let Some(value) = Value::new(kind, data) else {
        return;
    };
    let is_normal = value.is_normal();
    // Others can be read too; only what that gives need not be all.
    for entry in value.entries() {
        _ = entry;
    }
    for child in value.children() {
        assert!(!is_normal || child.is_normal());
        _ = (child.as_str(), child.as_u64_be(), child.child(1));
    }
    if is_normal {
        assert_eq!(writer::rewrite(&value), data);
    }
});
