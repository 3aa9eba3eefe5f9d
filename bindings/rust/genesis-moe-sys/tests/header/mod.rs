//! Reads `genesis_moe.h`, which keeps to a few forms, and writes each declaration in Rust.

/// A declaration of the header.
pub struct Declaration {
    pub name: String,
    /// The source file that it belongs in.
    pub file: &'static str,
    /// How it reads in Rust.
    pub rust: String,
}

/// Every constant, type and function of the header.
///
/// # Panics
/// On a form that it does not know: teach it that form.
pub fn parse(header: &str) -> Vec<Declaration> {
    let plain = without_comments(header);
    let mut declarations = Vec::new();
    for line in plain.lines() {
        if let Some((name, value)) = line.strip_prefix("#define ").and_then(|rest| rest.split_once(' ')) {
            if let Ok(value) = value.trim().trim_end_matches('u').parse::<u32>() {
                declarations.push(constant(name, "u32", i64::from(value)));
            }
        }
    }
    let code = without_directives(&plain);
    for statement in statements(&code) {
        if let Some(body) = statement.strip_prefix("enum {") {
            declarations.extend(enumerators(body.trim_end_matches('}')));
        } else if let Some(rest) = statement.strip_prefix("typedef struct {") {
            let (fields, name) = rest.split_once('}').expect("a struct ends");
            declarations.push(structure(name.trim(), fields));
        } else if let Some(rest) = statement.strip_prefix("typedef struct ") {
            declarations.push(handle(rest.rsplit(' ').next().expect("a handle has a name")));
        } else if let Some(rest) = statement.strip_prefix("typedef ") {
            declarations.push(alias(rest));
        } else {
            declarations.push(function(&statement));
        }
    }
    declarations
}

fn without_comments(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/*") {
        plain += before;
        rest = after.split_once("*/").expect("a comment ends").1;
    }
    plain + rest
}

/// Without directives, their continuation lines, and the braces of extern "C".
fn without_directives(text: &str) -> String {
    let joined = text.replace("\\\n", " ");
    let code =
        joined.lines().filter(|line| !line.starts_with('#') && !line.starts_with("extern \"C\"") && *line != "}");
    code.collect::<Vec<_>>().join("\n")
}

/// The statements, each with single spaces, without its semicolon.
fn statements(code: &str) -> Vec<String> {
    let (mut found, mut current, mut depth) = (Vec::new(), String::new(), 0);
    for character in code.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if character == ';' && depth == 0 {
            found.push(current.split_whitespace().collect::<Vec<_>>().join(" "));
            current.clear();
        } else {
            current.push(character);
        }
    }
    assert!(current.trim().is_empty(), "the header ends in the middle of: {current}");
    found
}

fn constant(name: &str, kind: &str, value: i64) -> Declaration {
    let rust = format!("pub const {name}: {kind} = {value};");
    Declaration { name: name.to_owned(), file: "constants.rs", rust }
}

/// `GMOE_OK = 0, ...`: the first enum of the header holds the statuses, others plain numbers.
fn enumerators(body: &str) -> Vec<Declaration> {
    let kind = if body.contains("GMOE_OK ") { "gmoe_status" } else { "i32" };
    let mut next = 0;
    let mut found = Vec::new();
    for enumerator in body.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let (name, value) = match enumerator.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim().parse().expect("an enumerator is a number")),
            None => (enumerator, next),
        };
        next = value + 1;
        found.push(constant(name, kind, value));
    }
    found
}

fn structure(name: &str, fields: &str) -> Declaration {
    let mut rust = format!("pub struct {name} {{\n");
    for field in fields.split(';').map(str::trim).filter(|text| !text.is_empty()) {
        let (first, more) = field.split_once(',').unwrap_or((field, ""));
        let (kind, first) = variable(first);
        for name in [first].into_iter().chain(more.split(',').map(str::trim).filter(|name| !name.is_empty())) {
            rust += &format!("    pub {name}: {kind},\n");
        }
    }
    Declaration { name: name.to_owned(), file: "structs.rs", rust: rust + "}" }
}

fn handle(name: &str) -> Declaration {
    let rust = format!("pub struct {name} {{\n    _opaque: [u8; 0],\n}}");
    Declaration { name: name.to_owned(), file: "structs.rs", rust }
}

/// `int32_t gmoe_status`, or a callback `void (*gmoe_x)(int32_t a, void *context)`.
fn alias(text: &str) -> Declaration {
    if let Some((result, rest)) = text.split_once("(*") {
        let (name, parameters) = rest.split_once(')').expect("a callback has a name");
        let rust = format!("pub type {name} = Option<unsafe extern \"C\" fn{}>;", signature(parameters, result.trim()));
        return Declaration { name: name.to_owned(), file: "structs.rs", rust };
    }
    let (kind, name) = variable(text);
    Declaration { name: name.to_owned(), file: "constants.rs", rust: format!("pub type {name} = {kind};") }
}

fn function(text: &str) -> Declaration {
    let (head, parameters) = text.split_once('(').unwrap_or_else(|| panic!("no form that is known: {text}"));
    let (result, name) = match head.rsplit_once('*') {
        Some((pointee, name)) => (format!("{pointee}*"), name),
        None => head.rsplit_once(' ').map(|(result, name)| (result.to_owned(), name)).expect("a function has a type"),
    };
    let name = name.trim();
    let rust = format!("pub fn {name}{};", signature(&format!("({parameters}"), &result));
    Declaration { name: name.to_owned(), file: "functions.rs", rust }
}

/// `(int32_t a, void *b)` and `void` as `(a: i32, b: *mut c_void)`.
fn signature(parameters: &str, result: &str) -> String {
    let inside = parameters.trim().trim_start_matches('(').trim_end_matches(')').trim();
    let written: Vec<String> = match inside {
        "" | "void" => Vec::new(),
        _ => inside
            .split(',')
            .map(|parameter| {
                let (kind, name) = variable(parameter.trim());
                format!("{name}: {kind}")
            })
            .collect(),
    };
    let result = if result == "void" { String::new() } else { format!(" -> {}", kind_of(result)) };
    format!("({}){result}", written.join(", "))
}

/// `const DLTensor *bias` as (`*const DLTensor`, `bias`).
fn variable(text: &str) -> (String, &str) {
    let at = text.rfind([' ', '*']).unwrap_or_else(|| panic!("no type and name: {text}"));
    (kind_of(&text[..=at]), text[at + 1..].trim())
}

fn kind_of(text: &str) -> String {
    let (pointee, stars) = text.split_at(text.find('*').unwrap_or(text.len()));
    let constant = pointee.trim().strip_prefix("const ");
    let mut kind = match constant.unwrap_or(pointee).trim() {
        "int32_t" => "i32",
        "int64_t" => "i64",
        "uint8_t" => "u8",
        "uint32_t" => "u32",
        "uint64_t" => "u64",
        "size_t" => "usize",
        "float" => "f32",
        "double" => "f64",
        "char" => "c_char",
        "void" => "c_void",
        named => named,
    }
    .to_owned();
    for (depth, _) in stars.matches('*').enumerate() {
        let access = if depth == 0 && constant.is_some() { "const" } else { "mut" };
        kind = format!("*{access} {kind}");
    }
    kind
}

#[test]
fn reads_each_form() {
    let declarations = parse(
        "#define GMOE_ABI_VERSION 1u\n#define X_INIT \\\n  {0, 0}\n\
         typedef int32_t gmoe_status;\nenum {\n  GMOE_OK = 0, /* fine */\n  GMOE_BAD = 4,\n  GMOE_WORSE\n};\n\
         typedef struct gmoe_engine gmoe_engine;\ntypedef struct {\n  double low, high;\n  const DLTensor *x; /* [T] */\n} gmoe_args;\n\
         typedef void (*gmoe_callback)(int32_t level, void *context);\n\
         const char *gmoe_version(void);\ngmoe_status gmoe_make(const gmoe_args *args,\n    gmoe_engine **out);\nvoid gmoe_stop(gmoe_engine *engine);\n",
    );
    let rust: Vec<&str> = declarations.iter().map(|d| d.rust.as_str()).collect();
    assert_eq!(
        rust,
        [
            "pub const GMOE_ABI_VERSION: u32 = 1;",
            "pub type gmoe_status = i32;",
            "pub const GMOE_OK: gmoe_status = 0;",
            "pub const GMOE_BAD: gmoe_status = 4;",
            "pub const GMOE_WORSE: gmoe_status = 5;",
            "pub struct gmoe_engine {\n    _opaque: [u8; 0],\n}",
            "pub struct gmoe_args {\n    pub low: f64,\n    pub high: f64,\n    pub x: *const DLTensor,\n}",
            "pub type gmoe_callback = Option<unsafe extern \"C\" fn(level: i32, context: *mut c_void)>;",
            "pub fn gmoe_version() -> *const c_char;",
            "pub fn gmoe_make(args: *const gmoe_args, out: *mut *mut gmoe_engine) -> gmoe_status;",
            "pub fn gmoe_stop(engine: *mut gmoe_engine);",
        ]
    );
}
