//! Documents that PostgreSQL takes for JSON, whatever Rust makes of them.

use proptest::{collection::vec, prelude::*};

/// Each is worth a case of its own.
pub(super) fn notable() -> Vec<String> {
    let mebibyte = format!("\"{}\"", "m".repeat(1024 * 1024 - 2));
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(500), "}".repeat(500));
    let some = [
        "null",
        "0",
        " \t\r\n{ } \n",
        r#""""#,
        r#""\u0000""#,
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""\uD83D\uDE00""#,
        "\"\u{1F600}\u{10FFFF}\u{202E}\u{FEFF}\u{7F}\"",
        r#"{"'; drop table event_box.events; --":"$1 %s {} \\ \" ''"}"#,
        r#"{"a":1,"a":2}"#,
        r#"{"":{"\u0000":[]}}"#,
        "-0.0e-0",
        "1e999",
        "123456789012345678901234567890.123456789012345678901234567890",
        r#"{"text":1.10,"list":[1 , 2]}"#,
    ];
    some.map(str::to_owned).into_iter().chain([mebibyte, nested(127), nested(500), objects]).collect()
}

/// Any string literal, with escapes that no Rust string could hold.
fn literal() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => any::<String>().prop_map(|text| {
            let quoted = serde_json::to_string(&text).expect("a string");
            quoted[1..quoted.len() - 1].to_owned()
        }),
        1 => any::<u16>().prop_map(|unit| format!("\\u{unit:04X}")),
        1 => (0xD800..0xE000_u16).prop_map(|unit| format!("\\u{unit:04x}")),
        1 => proptest::sample::select(vec!["\\/", "\\b", "\\u0000", "'", "$1", "{}", "\u{1F600}"]).prop_map(str::to_owned),
    ];
    vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

pub(super) fn document() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![literal(), "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", "null|true|false"];
    let blank = "[ \n\t\r]{0,2}";
    leaf.prop_recursive(6, 40, 5, move |inner| {
        let array = vec(inner.clone(), 0..5).prop_map(|items| items.join(","));
        let member = (literal(), blank, inner).prop_map(|(name, blank, value)| format!("{name}{blank}:{blank}{value}"));
        let object = vec(member, 0..5).prop_map(|members| members.join(","));
        prop_oneof![
            (array, blank).prop_map(|(items, blank)| format!("[{blank}{items}{blank}]")),
            (object, blank).prop_map(|(members, blank)| format!("{{{blank}{members}{blank}}}")),
        ]
    })
}
