package filesystem

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/datera-csi/datera-csi/internal/mountinfo"
)

// maxMountFlag is the length of one mount flag (CSI v1.13: 4 KiB for all).
const maxMountFlag = 4096

// CheckMountFlags refuses what would mount something else than the device, or
// somewhere else, or not mount at all, and what would let one volume stop its
// node.
func CheckMountFlags(flags []string) error {
	for _, f := range flags {
		if err := checkMountFlag(f); err != nil {
			return err
		}
	}
	return nil
}

func checkMountFlag(flag string) error {
	if flag == "" || len(flag) > maxMountFlag || strings.ContainsFunc(flag, unicode.IsControl) || !utf8.ValidString(flag) {
		return fmt.Errorf("mount flag %q is empty, too long or holds a control character", flag)
	}
	if strings.Count(flag, `"`)%2 != 0 {
		return fmt.Errorf("mount flag %q has an open quote", flag)
	}
	for _, o := range mountinfo.SplitOptions(flag) {
		name, value, _ := strings.Cut(strings.ToLower(o), "=")
		switch {
		case name == "":
			return fmt.Errorf("mount flag %q holds an empty option", flag)
		case slices.Contains(ofDriver(), name):
			return fmt.Errorf("mount flag %q is not allowed: the driver decides what is mounted and where", o)
		case strings.HasPrefix(name, "x-"), strings.HasPrefix(name, "-"), strings.HasPrefix(name, "verity."):
			return fmt.Errorf("mount flag %q is not allowed: it speaks to mount, not to the file system", o)
		case name == "errors" && value == "panic":
			return fmt.Errorf("mount flag %q is not allowed: one damaged volume would stop the node", o)
		}
	}
	return nil
}

// ofDriver are options that mount(8) or the file systems know and that are none of
// a class's business.
func ofDriver() []string {
	return []string{
		"bind", "rbind", "remount", "move", "loop", "offset", "sizelimit", "encryption", "helper", "uhelper", "defaults", "noauto", "user", "users", "owner", "group",
		"shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable", "nofail", "source",
		"logdev", "rtdev", "journal_path", "journal_dev", "sb", "norecovery", "noload",
	}
}
