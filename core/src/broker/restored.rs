//! What an operator's acceptance of a lost log finds and changes in the folders of a node that does not run.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{folders::read_topic, image_file};
use crate::{
    ids::{NodeId, PartitionId},
    log::parse_partition_folder,
    metadata::Image,
    runtime::Runtime,
};

/// How the name of a folder ends that is kept aside, as Kafka ends it.
const STRAY: &str = "-stray";

/// The newest metadata that a node has kept; an image of nothing if it has kept none.
///
/// # Errors
/// As the system says.
pub fn newest_image(runtime: &Runtime, metadata_dir: &Path) -> io::Result<Image> {
    match image_file::load(runtime.disk.as_ref(), metadata_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Image::default()),
        loaded => loaded,
    }
}

/// Renames the folders of partitions that `image` does not put on this node, and returns their new names. A node takes
/// away what its metadata does not want; where the metadata may have forgotten, nothing may be taken away for that.
///
/// # Errors
/// As the system says. What was renamed until then stays so.
pub fn keep_aside(
    runtime: &Runtime,
    log_dirs: &[PathBuf],
    node: NodeId,
    image: &Image,
) -> io::Result<Vec<PathBuf>> {
    let disk = runtime.disk.as_ref();
    let mut kept = Vec::new();
    for directory in log_dirs {
        let before = kept.len();
        for name in disk.list(directory)? {
            let path = directory.join(&name);
            let Some((_, index)) = parse_partition_folder(&name) else { continue };
            let Some(topic) = read_topic(disk, &path) else { continue };
            let wanted = image.partition(PartitionId { topic, index });
            if wanted.is_some_and(|partition| partition.has_replica(node)) {
                continue;
            }
            let aside = directory.join(format!("{name}.{}{STRAY}", runtime.rng.uuid().simple()));
            disk.rename(&path, &aside)?;
            kept.push(aside);
        }
        if kept.len() > before {
            disk.sync_dir(directory)?;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::base64_id, metadata::testing::Story};

    #[tokio::test]
    async fn folders_that_the_metadata_does_not_know_are_kept_aside_and_the_others_stay() {
        let mut story = Story::with_brokers(2, &[]);
        let known = story.create("known", &[&[1, 2], &[2]], &[]);
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, id: uuid::Uuid| {
            let path = root.path().join(name);
            std::fs::create_dir(&path).unwrap();
            let metadata = format!("version: 0\ntopic_id: {}\n", base64_id(id));
            std::fs::write(path.join("partition.metadata"), metadata).unwrap();
        };
        make("known-0", known.0);
        make("known-1", known.0);
        make("later-0", uuid::Uuid::from_u128(9));
        std::fs::create_dir(root.path().join("consensus")).unwrap();
        let runtime = Runtime::real();
        let folders = [root.path().to_owned()];
        let kept = keep_aside(&runtime, &folders, NodeId(1), &story.image).unwrap();
        assert_eq!(kept.len(), 2, "a later topic, and a partition that is elsewhere: {kept:?}");
        assert!(kept.iter().all(|path| path.join("partition.metadata").exists()));
        assert!(kept.iter().all(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.ends_with(STRAY) && parse_partition_folder(name).is_none()
        }));
        assert!(root.path().join("known-0").exists() && root.path().join("consensus").exists());
        assert_eq!(keep_aside(&runtime, &folders, NodeId(1), &story.image).unwrap(), Vec::<PathBuf>::new());
    }

    #[tokio::test]
    async fn a_node_without_a_folder_has_kept_nothing() {
        let root = tempfile::tempdir().unwrap();
        let image = newest_image(&Runtime::real(), &root.path().join("none")).unwrap();
        assert_eq!(image, Image::default());
    }
}
