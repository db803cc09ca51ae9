package image

// Suite is the Debian release that guests run.
const Suite = "bookworm"

// kernelPackage depends on the newest cloud kernel of the suite.
const kernelPackage = "linux-image-cloud-amd64"

// packages are what a storage host needs, beside Debian's minimal base, and what runs pods on it.
var packages = []string{
	"busybox-static", "dmsetup", "e2fsprogs", "fdisk", "iproute2", "kmod", "lsscsi", "mount", "multipath-tools", "nftables",
	"open-iscsi", "procps", "sg3-utils", "socat", "strace", "udev", "util-linux", "xfsprogs",
	"containernetworking-plugins", "crun",
}

// excluded paths are never unpacked.
var excluded = []string{
	"/usr/share/bash-completion/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/lintian/*",
	"/usr/share/locale/*", "/usr/share/man/*", "/usr/share/zoneinfo/*",
}

// pruned paths are needed while packages are installed but not while the guest runs. Perl, Python and ICU
// come with tools that guests do not call (xfs_scrub, lsb); of the network plugins, pods here need three.
var pruned = []string{
	"boot", "usr/bin/perl*", "usr/bin/python3*", "usr/lib/apt", "usr/lib/cni/[^bhl]*", "usr/lib/cni/bandwidth",
	"usr/lib/cni/host-device", "usr/lib/klibc*", "usr/lib/locale", "usr/lib/python3*",
	"usr/lib/udev/hwdb.bin", "usr/lib/udev/hwdb.d", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/libapt*",
	"usr/lib/x86_64-linux-gnu/libicu*", "usr/lib/x86_64-linux-gnu/libperl*", "usr/lib/x86_64-linux-gnu/perl*",
	"usr/sbin/xfs_scrub*", "usr/share/initramfs-tools", "usr/share/keyrings", "usr/share/perl*", "usr/share/python3",
	"var/cache/*", "var/lib/apt", "var/lib/dpkg", "var/log/*", "var/tmp/*",
}

// modules that guests may load, as shell patterns of module names. What they depend on comes along; one
// that matches nothing and is not built in fails the build.
var modules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "virtio_scsi",
	"overlay", "loop", "xfs", "ext4", "btrfs", "erofs", "squashfs", "configfs",
	"scsi_mod", "sd_mod", "sg", "iscsi_tcp", "scsi_debug",
	"target_core_*", "iscsi_target_mod", "tcm_loop",
	"dm_*", "null_blk", "brd",
	"nf_tables", "nft_*", "nf_conntrack", "sch_netem", "sch_ingress", "veth", "bridge", "dummy", "af_packet",
	"crc32c_*", "crc32_*", "crct10dif_*", "md5", "sha1_generic", "sha256_generic",
}

// bootModules are loaded before the root disk can be mounted, in this order.
var bootModules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "overlay", "configfs",
}
