//! What the documentation shows is what the tree holds.

use std::{fs, path::Path};

/// Blocks of code whose first line names a file must stand in that file, word for word.
#[test]
fn the_code_of_the_guide_is_the_code_of_the_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let guide = fs::read_to_string(root.join("docs/writing-a-backend.md")).expect("the guide");
    let mut compared = 0;
    for block in guide.split("\n```").skip(1).step_by(2) {
        let (head, code) = block.split_once('\n').expect("a first line");
        let (_, file) = head.split_once(' ').expect("every block names its file");
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(code), "{file} does not hold this block of the guide:\n{code}");
        compared += 1;
    }
    assert!(compared >= 8, "only {compared} blocks were compared");
}
