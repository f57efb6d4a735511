//! Files with YAML documents, and where in them something is wrong.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use serde::de::DeserializeOwned;

/// Name and content of each of `files`; `-` is standard input.
///
/// # Errors
/// Names the first that cannot be read.
pub fn read(files: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    let read = |file: &PathBuf| {
        if file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            return Ok(("standard input".to_owned(), text));
        }
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok((file.display().to_string(), text))
    };
    files.iter().map(read).collect()
}

/// One document of a YAML stream.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    file: &'a str,
    first_line: usize,
    text: &'a str,
}

impl<'a> Document<'a> {
    /// All documents in `text` that are not empty.
    pub fn all(file: &'a str, text: &'a str) -> Vec<Self> {
        let mut documents = Vec::new();
        let (mut start, mut first_line, mut offset) = (0, 1, 0);
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            if line.trim_end() == "---" || line.starts_with("--- ") {
                documents.push(Self { file, first_line, text: &text[start..offset] });
                // What stands behind it is the document's.
                (start, first_line) = (offset + "---".len(), number);
            }
            offset += line.len();
        }
        documents.push(Self { file, first_line, text: &text[start..] });
        documents.retain(|document| document.text.lines().any(|l| !l.trim().is_empty() && !l.trim().starts_with('#')));
        documents
    }

    /// What it says.
    ///
    /// # Errors
    /// With file and line.
    pub fn parse<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_yaml_ng::from_str(self.text).map_err(|error: serde_yaml_ng::Error| {
            let line = self.first_line + error.location().map_or(1, |location| location.line()) - 1;
            // The library's own message ends with a line that counts from the document's beginning.
            let message = error.to_string();
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
            anyhow!("{}:{line}: {message}", self.file)
        })
    }

    /// Where it begins, as `file:line`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.first_line)
    }
}
