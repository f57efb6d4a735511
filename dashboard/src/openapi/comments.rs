//! What the contract's authors wrote above a thing, which the descriptors carry along. Pure.

use prost_reflect::FileDescriptor;

/// The comment above what is at `path` in `file`; empty where there is none. Lines that only were too long for the file are one.
pub(crate) fn above(file: &FileDescriptor, path: &[i32]) -> String {
    let locations = file.file_descriptor_proto().source_code_info.iter().flat_map(|info| &info.location);
    let comment = locations.filter(|location| location.path == path).find_map(|it| it.leading_comments.as_deref());
    let lines: Vec<_> = comment.unwrap_or_default().lines().map(str::trim).collect();
    lines.join(" ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::DESCRIPTORS;
    use prost_reflect::DescriptorPool;

    use super::*;

    #[test]
    fn comments_are_in_the_descriptors() {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let message = pool.get_message_by_name("conduit.public.v1.StatRow").unwrap();
        let field = |name: &str| {
            let field = message.get_field_by_name(name).unwrap();
            above(&message.parent_file(), field.path())
        };
        assert_eq!(field("stats"), "Absent when there was no traffic.");
        assert_eq!(field("resource"), "");
        let window = pool.get_message_by_name("conduit.public.v1.StatRequest").unwrap();
        let window = window.get_field_by_name("window_ms").unwrap();
        // Two lines of the file.
        assert!(above(&window.parent_message().parent_file(), window.path()).ends_with("is a whole number of them."));
    }
}
