//! The attacks.

use std::time::Duration;

use super::{Attack, Crowd, Kind};

/// A body with this document.
fn query(document: &str) -> Vec<u8> {
    body(document, "{}")
}

fn body(document: &str, variables: &str) -> Vec<u8> {
    let escaped = document.replace('\\', "\\\\").replace('"', "\\\"");
    format!(r#"{{"query":"{escaped}","variables":{variables}}}"#).into_bytes()
}

/// An attack by one request. `#` in the name is replaced by the body's length.
fn post(name: &str, body: Vec<u8>) -> Attack {
    Attack { name: name.replace('#', &body.len().to_string()), kind: Kind::Post(body) }
}

/// Fragments that each spread the next one `times` times.
fn fan(levels: usize, times: usize) -> String {
    let mut text = String::from("{ ...f0 }");
    for level in 0..levels {
        let spreads = format!("...f{} ", level + 1).repeat(times);
        text.push_str(&format!(" fragment f{level} on Query {{ {spreads}}}"));
    }
    text.push_str(&format!(" fragment f{levels} on Query {{ __typename }}"));
    text
}

/// A chain of fragments, each with `levels` nested selections.
fn chain(fragments: usize, levels: usize) -> String {
    let (open, close) = ("...{".repeat(levels), "}".repeat(levels));
    let mut text = String::from("{ ...f0 }");
    for number in 0..fragments {
        text.push_str(&format!(" fragment f{number} on Query {{{open}...f{}{close}}}", number + 1));
    }
    text.push_str(&format!(" fragment f{fragments} on Query {{ __typename }}"));
    text
}

/// A body with references in a variable.
pub(super) fn references(count: usize) -> Vec<u8> {
    let reference = |n: usize| format!(r#"{{"name":"package-{n}","version":"1.0.0"}}"#);
    let refs: Vec<String> = (0..count).map(reference).collect();
    body(
        "query($refs: [PackageRef!]!) { packages(refs: $refs) { name version purl publicationInfo { username created tor tfa torReason torSettled tfaReason credential actor disputed } } }",
        &format!(r#"{{"refs":[{}]}}"#, refs.join(",")),
    )
}

/// All attacks. `size` is the depth and the number of repetitions: 100,000 for a full run, less for a short test.
pub fn attacks(size: usize) -> Vec<Attack> {
    let mut all = fragments();
    all.extend(literals(size));
    all.extend(repetitions(size));
    all.extend(bodies(size));
    all.extend(caps());
    all.extend(connections());
    all
}

fn fragments() -> Vec<Attack> {
    let levels = "{ofType".repeat(7) + "{name" + &"}".repeat(8);
    let types =
        |n: usize| format!("a{n}:__schema{{types{{fields{{type{levels}args{{type{levels}}}}}}}}}");
    let aliases: String = (0..20).map(types).collect();
    let nested = "fields{type{".repeat(10) + "name" + &"}}".repeat(10);
    let operations =
        |n: usize| format!("query q{n}{{...f{n}}} fragment f{n} on Query{{__typename}} ");
    vec![
        post("doubling fragments, 40 levels", query(&fan(40, 2))),
        post("fourfold fragments, 40 levels", query(&fan(40, 4))),
        post("90 chained fragments, 100 levels each", query(&chain(90, 100))),
        post("60 chained fragments, 30 levels each", query(&chain(60, 30))),
        post(
            "a circle of fragments",
            query("{...a} fragment a on Query{...b} fragment b on Query{...a}"),
        ),
        post("introspection times 20 aliases", query(&format!("{{{aliases}}}"))),
        post("introspection nested 10 times", query(&format!("{{__schema{{types{{{nested}}}}}}}"))),
        post(
            "1,000 operations, 1,000 fragments",
            query(&(0..1_000).map(operations).collect::<String>()),
        ),
    ]
}

fn literals(size: usize) -> Vec<Attack> {
    let list = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let object = |depth: usize| "{a:".repeat(depth) + "1" + &"}".repeat(depth);
    let argument = |value: &str| query(&format!("{{packages(refs:{value}){{name}}}}"));
    let default = |value: &str| {
        query(&format!("query($r:[PackageRef!]!={value}){{packages(refs:$r){{name}}}}"))
    };
    let variable = |value: &str| {
        body("query($r:[PackageRef!]!){packages(refs:$r){name}}", &format!(r#"{{"r":{value}}}"#))
    };
    let json = r#"{"a":"#.repeat(size) + "1" + &"}".repeat(size);
    vec![
        post(&format!("list literals {size} deep"), argument(&list(size))),
        post("list literals nested 1,500 deep (3 kB)", argument(&list(1_500))),
        post(&format!("object literals {size} deep"), argument(&object(size))),
        post("object literals nested 1,500 deep", argument(&object(1_500))),
        post(&format!("lists {size} deep in a default"), default(&list(size))),
        post("objects nested 1,500 deep in a default", default(&object(1_500))),
        post(&format!("lists {size} deep in a variable"), variable(&list(size))),
        post(&format!("objects {size} deep in a variable"), variable(&json)),
        post(&format!("selections {size} deep"), query(&("{a".repeat(size) + &"}".repeat(size)))),
        post(
            &format!("types {size} deep in a declaration"),
            query(&format!("query($a:{}Int{}){{a}}", "[".repeat(size), "]".repeat(size))),
        ),
    ]
}

fn repetitions(size: usize) -> Vec<Attack> {
    let aliases = |count: usize| {
        let field =
            |n: usize| format!("a{n}:package(name:\"package-{n}\",version:\"1.0.0\"){{name}}");
        query(&format!("{{{}}}", (0..count).map(field).collect::<String>()))
    };
    vec![
        post(&format!("{} aliases", size / 10), aliases(size / 10)),
        post("1,000 aliases", aliases(1_000)),
        post(
            &format!("the same field {size} times"),
            query(&format!("{{{}}}", "__typename ".repeat(size))),
        ),
        post("the same field 1,900 times", query(&format!("{{{}}}", "__typename ".repeat(1_900)))),
        post(&format!("{size} directives"), query(&format!("{{__typename{}}}", "@a".repeat(size)))),
        post("400 directives", query(&format!("{{__typename{}}}", "@skip(if:false)".repeat(400)))),
        post("60 kB of commas", query(&format!("{{__typename{}}}", ",".repeat(60_000)))),
        post(
            "unknown fields, an error each",
            query(&format!("{{{}}}", (0..1_500).map(|n| format!("x{n} ")).collect::<String>())),
        ),
    ]
}

fn bodies(size: usize) -> Vec<Attack> {
    let large = || vec![b' '; size * 500];
    let array = format!("[{}{{}}]", r#"{"query":"{__typename}"},"#.repeat(1_000));
    let numbers = body(
        "query($r:[PackageRef!]!){packages(refs:$r){name}}",
        &format!(r#"{{"r":[{}0]}}"#, "0,".repeat(size * 5)),
    );
    vec![
        post("a text of # bytes in 1,900 places", often(r"\n")),
        post("a purl of # bytes in 1,900 places", often("pkg:npm/%61")),
        post("a cursor of # bytes in 240 searches", cursors()),
        post("an alias of 54 kB in 500 places", long_alias()),
        post("an alias of 54 kB in 280 introspections", long_key_in_introspections(54_000)),
        post("an alias of 63 bytes in 280 introspections", long_key_in_introspections(63)),
        post("a list of 5,000 references in 300 fields", list_in_many_fields()),
        post("a body of # bytes", large()),
        Attack { name: format!("{} bytes in chunks", size * 500), kind: Kind::Chunked(large()) },
        post("an array of 1,000 operations", array.into_bytes()),
        post("a list of numbers as references", numbers),
        post("5,000 references, all fields", references(5_000)),
    ]
}

/// A variable of two megabytes that a document names 1,900 times.
fn often(begins: &str) -> Vec<u8> {
    let document =
        format!("query($a:String!){{packagesByPurl(purls:[{}]){{name}}}}", "$a".repeat(1_900));
    body(&document, &format!(r#"{{"a":"{begins}{}"}}"#, "a".repeat(2_000_000)))
}

fn cursors() -> Vec<u8> {
    let search = |n: usize| format!("s{n}:search(prefix:\"a\",first:1,after:$a)");
    let document = format!("query($a:String){{{}}}", (0..240).map(search).collect::<String>());
    body(&document, &format!(r#"{{"a":"{}"}}"#, "a".repeat(2_000_000)))
}

fn long_key_in_introspections(length: usize) -> Vec<u8> {
    let roots: String =
        (0..280).map(|n| format!("a{n}:__schema{{types{{fields{{...f}}}}}}")).collect();
    query(&format!("{{{roots}}}fragment f on __Field{{{}:name}}", "k".repeat(length)))
}

/// A list of 5,000 references that a document names 300 times.
fn list_in_many_fields() -> Vec<u8> {
    let fields: String = (0..300).map(|n| format!("a{n}:packages(refs:$r){{id}}")).collect();
    let refs = vec![r#"{"name":"package-1","version":"1.0.0"}"#; 5_000].join(",");
    body(&format!("query($r:[PackageRef!]!){{{fields}}}"), &format!(r#"{{"r":[{refs}]}}"#))
}

/// A request whose text shows one reference, and that asks for it 1,900 times.
fn repeated_reference() -> Vec<u8> {
    let document =
        format!("query($r:PackageRef!){{packages(refs:[{}]){{id}}}}", "$r".repeat(1_900));
    let (name, version) = ("a".repeat(512), "1".repeat(256));
    body(&document, &format!(r#"{{"r":{{"name":"{name}","version":"{version}"}}}}"#))
}

fn long_alias() -> Vec<u8> {
    let roots: String = (0..500).map(|n| format!("a{n}:registry{{...f}}")).collect();
    let alias = "a".repeat(54_000);
    query(&format!("{{{roots}}} fragment f on Registry{{{alias}:ecosystem}}"))
}

/// Requests at each default limit, and one over it.
fn caps() -> Vec<Attack> {
    let refs = |count| post(&format!("{count} references"), references(count));
    let padded = |length: usize| {
        let body = query("{__typename}");
        post("a body of # bytes", [body.as_slice(), &vec![b' '; length - body.len()]].concat())
    };
    let document = |length: usize| {
        let text = format!("{{__typename}}#{}", "x".repeat(length - 13));
        post(&format!("a document of {length} bytes"), query(&text))
    };
    let nested = |levels: usize| {
        let text = "...{".repeat(levels - 1);
        post(
            &format!("selections {levels} deep"),
            query(&format!("{{{text}__typename{}}}", "}".repeat(levels - 1))),
        )
    };
    let pages = |count: usize| {
        let page = |n: usize| format!("a{n}:publications(first:100){{edges{{node{{purl}}}}}}");
        let pages: String = (0..count).map(page).collect();
        post(&format!("{count} pages of 100"), query(&format!("{{{pages}}}")))
    };
    // White space counts as a token.
    let tokens = |count: usize| {
        let (fields, space) = ("__typename ".repeat((count - 2) / 2), " ".repeat(count % 2));
        post(&format!("a document of {count} tokens"), query(&format!("{space}{{{fields}}}")))
    };
    let selections = |count: usize| {
        let (own, fields) = ("__typename".repeat(count % 2), "__typename,".repeat(count / 2 - 1));
        let text = format!("{{...f ...f,{own}}}fragment f on Query{{{fields}}}");
        post(&format!("{count} selections"), query(&text))
    };
    let definitions = |count: usize| {
        let operations: String = (0..count).map(|n| format!("query q{n}{{__typename}}")).collect();
        let text = format!(r#"{{"operationName":"q0","query":"{operations}"}}"#);
        post(&format!("{count} operations"), text.into_bytes())
    };
    vec![
        refs(5_000),
        refs(5_001),
        tokens(4_000),
        tokens(4_001),
        selections(2_000),
        selections(2_001),
        definitions(64),
        definitions(65),
        padded(2 << 20),
        padded((2 << 20) + 1),
        document(64 << 10),
        document((64 << 10) + 1),
        nested(32),
        nested(33),
        pages(10),
        pages(11),
        post("the largest answer, 5,000 references with 44 purls each", wide(44)),
        post("more than the largest answer, 100 purls each", wide(100)),
    ]
}

/// Clients that each ask for 5,000 rows with all fields, again and again.
pub fn bulk(clients: usize) -> Attack {
    let request = references(5_000);
    let whole = framed(&request, &format!("content-length: {}", request.len()));
    let name = format!("{clients} clients that repeat 5,000 references");
    Attack { name, kind: Kind::Repeated(clients, whole) }
}

/// A request with 5,000 references and `purls` purls for each.
fn wide(purls: usize) -> Vec<u8> {
    let fields: String = (0..purls).map(|n| format!("a{n}:purl ")).collect();
    let reference = |n: usize| format!(r#"{{"name":"package-{n}","version":"1.0.0"}}"#);
    let refs: Vec<String> = (0..5_000).map(reference).collect();
    body(
        &format!("query($refs: [PackageRef!]!) {{ packages(refs: $refs) {{ {fields} }} }}"),
        &format!(r#"{{"refs":[{}]}}"#, refs.join(",")),
    )
}

/// A request with 100 references, whose answer has some 5 MB because of its aliases.
fn long_answer() -> Vec<u8> {
    let fields: String = (0..480).map(|n| format!("{}{n}:purl ", "a".repeat(80))).collect();
    let reference = |n: usize| format!(r#"{{name:"package-{n}",version:"1.0.0"}}"#);
    let refs: String = (0..100).map(reference).collect();
    query(&format!("{{packages(refs:[{refs}]){{{fields}}}}}"))
}

fn connections() -> Vec<Attack> {
    let crowd = |count, per_address| Crowd { count, per_address, pause: Duration::ZERO };
    let held = |name: &str, crowd: Crowd, part: &[u8]| {
        let name = format!(
            "{} {name} ({} bytes), {} of an address",
            crowd.count,
            part.len(),
            crowd.per_address
        );
        Attack { name, kind: Kind::Held(crowd, part.to_vec()) }
    };
    let head = b"POST /graphql HTTP/1.1\r\nhost: x\r\n".as_slice();
    let long_head = |length: usize| [head, b"a: ", &vec![b'x'; length - head.len() - 3]].concat();
    let announced = |length: usize, body: &[u8]| {
        let rest = format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        [head, rest.as_bytes(), body].concat()
    };
    let begun = |bytes: usize| {
        let body = query("{__typename}");
        let spaces = vec![b' '; bytes - body.len()];
        announced(2 << 20, &[&body[..body.len() - 1], spaces.as_slice()].concat())
    };
    let request = references(5_000);
    let whole = framed(&request, &format!("content-length: {}", request.len()));
    let request = long_answer();
    let long = framed(&request, &format!("content-length: {}", request.len()));
    let request = repeated_reference();
    let repeated = framed(&request, &format!("content-length: {}", request.len()));
    let request = wide(44);
    let largest = framed(&request, &format!("content-length: {}", request.len()));
    let slowly = |count| Attack {
        name: format!("{count} answers of some 8 MB that are read slowly"),
        kind: Kind::SlowlyRead(count, largest.clone()),
    };
    let paced = Crowd { count: 24, per_address: 256, pause: Duration::from_millis(125) };
    vec![
        held("open connections", crowd(2_000, 2_000), b""),
        held("half heads", crowd(256, 256), head),
        held("half heads", crowd(257, 257), head),
        held("half heads", crowd(2_048, 256), head),
        held("half heads", crowd(2_049, 256), head),
        held("half heads", crowd(4_200, 4_200), head),
        held("half heads", crowd(4_200, 200), head),
        held("long heads that stop", crowd(2_000, 2_000), &long_head(60_000)),
        held("long heads that stop", crowd(2_000, 200), &long_head(60_000)),
        held("heads one byte below the cap that stop", crowd(2_000, 200), &long_head(16_383)),
        held("short heads that stop", crowd(2_000, 200), &long_head(4_000)),
        held("heads for 2 MiB without a body, 8 each second", paced, &announced(2 << 20, b"")),
        held("bodies that stop", crowd(200, 200), &begun(1_000_000)),
        held("bodies that stop", crowd(400, 100), &begun(1_000_000)),
        held("bodies that stop", crowd(1_000, 100), &begun(10_000)),
        held("bodies that stop after a byte", crowd(2_100, 256), &announced(2 << 20, b"{")),
        held("requests for a reference 1,900 times", crowd(256, 256), &repeated),
        held("requests for a reference 1,900 times", crowd(256, 16), &repeated),
        held("long answers of 100 rows that nobody reads", crowd(256, 256), &long),
        held("long answers of 100 rows that nobody reads", crowd(256, 16), &long),
        held("answers of 5,000 rows that nobody reads", crowd(60, 60), &whole),
        held("answers of 5,000 rows that nobody reads", crowd(60, 10), &whole),
        slowly(2),
        slowly(10),
    ]
}

pub(super) fn framed(body: &[u8], length: &str) -> Vec<u8> {
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n{length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}
