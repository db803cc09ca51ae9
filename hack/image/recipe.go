package main

// plugin is the program that needs tools beside it.
const plugin = "datera-csi"

// packages are where the files come from.
func packages() []string {
	return []string{"base-files", "ca-certificates", "e2fsprogs", "mount", "util-linux", "xfsprogs"}
}

// kept are the files of the packages that a program or whoever debugs it needs, as
// shell patterns. What their programs are linked with comes along. There is no
// shell: nothing here runs one.
func kept(program string) []string {
	release := []string{"usr/lib/os-release", "etc/os-release", "etc/debian_version"} // what scanners tell it by
	if program != plugin {
		return release
	}
	return append(release,
		// util-linux: into the host's namespaces, signatures, mounts
		"usr/bin/nsenter", "usr/sbin/blkid", "usr/bin/mount", "usr/bin/umount",
		// e2fsprogs: make, check, grow, tell
		"usr/sbin/mke2fs", "usr/sbin/mkfs.ext4", "usr/sbin/e2fsck", "usr/sbin/fsck.ext4",
		"usr/sbin/resize2fs", "usr/sbin/tune2fs", "usr/sbin/dumpe2fs", "etc/mke2fs.conf",
		// xfsprogs: make, check, grow, tell; the conservative feature sets by kernel
		"usr/sbin/mkfs.xfs", "usr/sbin/xfs_repair", "usr/sbin/xfs_growfs", "usr/sbin/xfs_io",
		"usr/sbin/xfs_db", "usr/share/xfsprogs/mkfs/*.conf",
	)
}

// certificates are the roots that an array's certificate is checked against when its
// backend has no ca.crt; they become one file.
const certificates = "usr/share/ca-certificates/mozilla/*.crt"

// user is who the programs run as where nothing else is said.
const user = "65532"

// written are the files that no package has.
func written() map[string]string {
	return map[string]string{
		"etc/passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nnonroot:x:" + user + ":" + user + ":nonroot:/:/usr/sbin/nologin\n",
		"etc/group":  "root:x:0:\nnonroot:x:" + user + ":\n",
		// Go's resolver asks the files first.
		"etc/nsswitch.conf": "hosts: files dns\n",
		// mount(8) takes SELinux for absent, and drops the label it is to pass on, unless there
		// is this file beside the SELinux file system of the host.
		"etc/selinux/config": "SELINUXTYPE=targeted\n",
	}
}

// directories are made empty, for what is mounted there.
func directories() []string {
	return []string{"csi", "dev", "etc/datera-csi/backends", "proc", "run", "sys", "tmp", "var/lib/datera-csi", "var/lib/kubelet"}
}
