//! What is shown of requests as they pass, and what is not.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::harness::Mesh;

/// `web` is asked at one address, and asks at others, all at the same port.
pub fn assert_filtered_by_address(mesh: &Mesh) {
    let seen = |filter: &str| mesh.first_lines(&format!("-n emojivoto tap deploy/web -o wide {filter}"), 30);
    let all = seen("--to-port 8080");
    let way = |way: &str| all.iter().find(|line| line.contains(&format!(" proxy={way} ")));
    let (inbound, outbound) = (way("in").expect("it is asked"), way("out").expect("it asks"));
    assert!(all.iter().all(|line| end(line, "dst").ends_with(":8080")), "{all:#?}");

    for (one, other) in [(inbound, "out"), (outbound, "in")] {
        let (from, to) = (address(one, "src"), address(one, "dst"));
        let seen = seen(&format!("--to-ip {to} --from-ip {from} --to-port 8080"));
        let wanted = |line: &String| address(line, "dst") == to && address(line, "src") == from;
        assert!(seen.len() == 30 && seen.iter().all(wanted), "{seen:#?}");
        assert!(!seen.iter().any(|line| line.contains(&format!(" proxy={other} "))), "{seen:#?}");
    }

    // Its application keeps its connections to those that it asks.
    let source = end(outbound, "src");
    let of_one = seen(&format!("--from-port {}", source.rsplit_once(':').unwrap().1));
    assert!(of_one.len() == 30 && of_one.iter().all(|line| end(line, "src") == source), "{of_one:#?}");
}

/// As the README shows it: what came before an answer that is not OK.
pub fn assert_piped(mesh: &Mesh) {
    let grep = ["--max-count=1", "--before-context=2", "Unknown"];
    let found = mesh.piped("tap deploy emojivoto/voting", Command::new("grep").args(grep));
    let lines: Vec<_> = found.lines().collect();
    let [.., end] = lines[..] else { panic!("nothing is found") };
    assert!(lines.len() == 3 && end.starts_with("end id=") && end.contains(" grpc-status=Unknown "), "{found}");
}

/// A client that goes away in the middle.
pub fn assert_resets(mesh: &Mesh) {
    let address = mesh.web_address();
    let (stop, stopped) = mpsc::channel::<()>();
    let leaving = thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(200)) == Err(mpsc::RecvTimeoutError::Timeout) {
            let mut client = TcpStream::connect(&address).unwrap();
            client.write_all(b"POST /left HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\nhalf").unwrap();
        }
    });
    let lines = mesh.first_lines("-n emojivoto tap deploy/web --path /left", 6);
    let short = mesh.first_lines("-n emojivoto tap deploy/web --path /left -o short", 1);
    drop(stop);
    leaving.join().unwrap();
    assert!(lines.iter().any(|line| line.starts_with("end id=") && line.contains(" reset-error=8 ")), "{lines:#?}");
    assert!(short[0].contains(" in  POST web/left - reset=CANCEL "), "{short:#?}");
}

/// What heads say is shown if it is asked for, but for who somebody is.
pub fn assert_headers(mesh: &Mesh) {
    let address = mesh.web_address();
    let (stop, stopped) = mpsc::channel::<()>();
    let asking = thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(200)) == Err(mpsc::RecvTimeoutError::Timeout) {
            let mut client = TcpStream::connect(&address).unwrap();
            let head = "GET /shown HTTP/1.1\r\nhost: web\r\nx-shown: yes\r\nAuthorization: Bearer s3cret\r\n";
            client.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).unwrap();
            let _ = client.read_to_end(&mut Vec::new());
        }
    });
    let plain = mesh.first_lines("-n emojivoto tap deploy/web --path /shown", 3);
    let lines = mesh.first_lines("-n emojivoto tap deploy/web --path /shown --payload --headers", 20);
    let json = mesh.first_lines("-n emojivoto tap deploy/web --path /shown --payload --headers -o json", 3);
    drop(stop);
    asking.join().unwrap();
    assert!(plain.iter().all(|line| !line.starts_with("  ")), "{plain:#?}");
    let has =
        |way: char, field: &str| lines.iter().any(|l| l.starts_with(&format!("  {way} id=")) && l.ends_with(field));
    assert!(has('>', " x-shown: yes") && has('>', " authorization: [redacted]"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("  < id=") && line.contains(" content-")), "{lines:#?}");
    assert!(!format!("{lines:?}{json:?}").contains("s3cret"), "{lines:#?}");
    let request = json.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let headers = request.map(|event| event["requestInitEvent"]["headers"].clone()).find(Value::is_array).unwrap();
    let redacted = serde_json::json!({ "name": "authorization", "redacted": true });
    assert!(headers.as_array().unwrap().contains(&redacted), "{headers}");
}

/// `src` or `dst` of a line.
fn end<'a>(line: &'a str, name: &str) -> &'a str {
    let value = |word: &'a str| word.strip_prefix(name)?.strip_prefix('=');
    line.split(' ').find_map(value).unwrap_or_else(|| panic!("no {name} in {line}"))
}

fn address<'a>(line: &'a str, name: &str) -> &'a str {
    end(line, name).rsplit_once(':').unwrap().0
}
