//! Embeds what `npm run build` made of the web application, where it was run: building Conduit needs no Node.

use std::{
    env, fs,
    io::{Error, Result},
    path::{Path, PathBuf},
};

fn main() -> Result<()> {
    let app = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(Error::other)?).join("app");
    let dist = app.join("dist");
    // A directory that is not there would be changed for ever.
    println!("cargo:rerun-if-changed={}", if dist.exists() { &dist } else { &app }.display());
    let mut files = Vec::new();
    if dist.join("index.html").exists() {
        collect(&dist, "", &mut files)?;
    }
    files.sort();
    let out = PathBuf::from(env::var("OUT_DIR").map_err(Error::other)?);
    let mut list = String::from("&[\n");
    for (number, (path, file)) in files.iter().enumerate() {
        // A copy: the application may be built again while this is compiled.
        let copy = out.join(number.to_string());
        fs::copy(file, &copy)?;
        let kind = kind(path);
        list += &format!("    File {{ path: {path:?}, kind: {kind:?}, bytes: include_bytes!({copy:?}) }},\n");
    }
    fs::write(out.join("files.rs"), list + "]\n")
}

fn collect(directory: &Path, before: &str, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| Error::other(format!("{name:?} is no name")))?;
        let path = format!("{before}{name}");
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{path}/"), files)?;
        } else {
            files.push((path, entry.path()));
        }
    }
    Ok(())
}

fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}
