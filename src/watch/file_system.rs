//! Which file systems do not tell of all changes: others than this kernel make
//! them, or they are made below the file system that is looked at.

use std::path::Path;

/// Their names, by the number that statfs(2) has for them. These are the ones
/// that `tail -f` of coreutils polls for (its src/stat.c), and some newer ones.
const SILENT: [(u32, &str); 28] = [
    // Other machines write.
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x00c3_6400, "CephFS"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0000_564c, "NCP"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0131_11a8, "IBRIX"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0xaad7_aaea, "PanFS"),
    (0xbeef_dead, "StorNext"),
    (0xa501_fcf5, "VxFS"),
    (0x6163_6673, "ACFS"),
    // The machine around this one writes.
    (0x0102_1997, "9P"),
    (0x786f_4256, "a VirtualBox shared folder"),
    (0xbacb_acbc, "a VMware shared folder"),
    (0x7c7c_6673, "a Parallels shared folder"),
    // A program writes, or a machine behind it: sshfs, s3fs, GlusterFS, virtiofs.
    (0x6573_5546, "FUSE"),
    // Layers below may be written to directly.
    (0x794c_7630, "overlayfs"),
    (0x6175_6673, "AUFS"),
    (0x0000_f15f, "eCryptfs"),
];

/// Says so if the file system of `path` does not tell of all changes. `None` as
/// well if it cannot be asked: setting watches says why.
pub(super) fn silent(path: &Path) -> Option<String> {
    let found = rustix::fs::statfs(path).ok()?;
    // The kernel's numbers have 32 bits; the field's width and sign differ
    // between machines.
    let name = name(found.f_type as u32)?;
    let path = path.display();
    Some(format!(
        "{path} is on {name}, which does not tell of all changes"
    ))
}

fn name(number: u32) -> Option<&'static str> {
    let known = SILENT.iter().find(|(silent, _)| *silent == number);
    known.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_file_systems() {
        // Numbers as the kernel's headers have them, through a signed field.
        for (number, expected) in [
            (libc::NFS_SUPER_MAGIC, Some("NFS")),
            (libc::SMB_SUPER_MAGIC, Some("SMB")),
            (libc::AFS_SUPER_MAGIC, Some("AFS")),
            (libc::CODA_SUPER_MAGIC, Some("Coda")),
            (libc::FUSE_SUPER_MAGIC, Some("FUSE")),
            (libc::OVERLAYFS_SUPER_MAGIC, Some("overlayfs")),
            (0xff53_4d42_u32 as i32 as _, Some("CIFS")),
            (libc::EXT4_SUPER_MAGIC, None),
            (libc::XFS_SUPER_MAGIC, None),
            (libc::BTRFS_SUPER_MAGIC, None),
            (libc::TMPFS_MAGIC, None),
            (libc::F2FS_SUPER_MAGIC, None),
            (0x2fc1_2fc1, None), // ZFS
        ] {
            assert_eq!(name(number as u32), expected, "{number:#x}");
        }
    }

    #[test]
    fn each_number_once() {
        let numbers: std::collections::HashSet<u32> = SILENT.iter().map(|it| it.0).collect();
        assert_eq!(numbers.len(), SILENT.len());
    }

    #[test]
    fn what_is_not_there_is_not_silent() {
        assert_eq!(silent(Path::new("/nowhere/at/all")), None);
    }
}
