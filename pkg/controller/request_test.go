package controller

import (
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/chap"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

const gib = int64(1) << 30

func TestSizesAreRoundedUpWithinTheLimit(t *testing.T) {
	for _, c := range []struct {
		name            string
		required, limit int64
		size            dateraclient.GiB
		code            codes.Code
	}{
		{"one byte", 1, 0, 1, codes.OK},
		{"a whole GiB", gib, 0, 1, codes.OK},
		{"a byte more", gib + 1, 0, 2, codes.OK},
		{"a byte more and room", gib + 1, 2 * gib, 2, codes.OK},
		{"a byte more and no room", gib + 1, 2*gib - 1, 0, codes.OutOfRange},
		{"exact", 7 * gib, 7 * gib, 7, codes.OK},
		{"only a limit above the default", 0, 100 * gib, 16, codes.OK},
		{"only a limit below the default", 0, 5*gib + 7, 5, codes.OK},
		{"only a limit below one GiB", 0, gib - 1, 0, codes.OutOfRange},
		{"no whole GiB below the limit", 5, gib - 1, 0, codes.OutOfRange},
		{"the largest", 262144 * gib, 0, 262144, codes.OK},
		{"larger than the largest", 262144*gib + 1, 0, 0, codes.OutOfRange},
		{"absurd", math.MaxInt64, 0, 0, codes.OutOfRange},
		{"absurd limit", 3 * gib, math.MaxInt64, 3, codes.OK},
		{"only an absurd limit", 0, math.MaxInt64, 16, codes.OK},
		{"required above the limit", 2 * gib, gib, 0, codes.InvalidArgument},
		{"negative", -1, 0, 0, codes.InvalidArgument},
		{"negative limit", gib, -1, 0, codes.InvalidArgument},
		{"nothing at all", 0, 0, 0, codes.InvalidArgument},
	} {
		got, err := parseSize(&csi.CapacityRange{RequiredBytes: c.required, LimitBytes: c.limit})
		if status.Code(err) != c.code || got.Size != c.size {
			t.Errorf("%s: got %d GiB, %v, want %d GiB, %s", c.name, got.Size, err, c.size, c.code)
		}
		if err == nil && !got.holds(got.Size) {
			t.Errorf("%s: %d GiB do not satisfy their own request %v", c.name, got.Size, got)
		}
	}
	if got, err := parseSize(nil); err != nil || got.Size != 16 {
		t.Errorf("no range: got %d GiB, %v, want 16", got.Size, err)
	}
}

func mount(mode csi.VolumeCapability_AccessMode_Mode, fsType string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
	}
}

func block(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

func TestCapabilities(t *testing.T) {
	for _, c := range []struct {
		give []*csi.VolumeCapability
		says string // "" when it is taken
	}{
		{[]*csi.VolumeCapability{mount(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, "")}, ""},
		{[]*csi.VolumeCapability{mount(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, "xfs")}, ""},
		{[]*csi.VolumeCapability{mount(csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER, "ext4")}, ""},
		{[]*csi.VolumeCapability{mount(csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER, "ext4"), mount(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, "ext4")}, ""},
		{[]*csi.VolumeCapability{block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)}, ""},
		{[]*csi.VolumeCapability{block(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)}, ""},
		{[]*csi.VolumeCapability{mount(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, "ext4"), mount(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, "ext4")}, ""},
		{[]*csi.VolumeCapability{block(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)}, ""},

		{nil, "missing"},
		{[]*csi.VolumeCapability{nil}, "access type is missing"},
		{[]*csi.VolumeCapability{{}}, "access type is missing"},
		{[]*csi.VolumeCapability{{AccessType: mount(0, "").GetAccessType()}}, "access mode is missing"},
		{[]*csi.VolumeCapability{mount(csi.VolumeCapability_AccessMode_UNKNOWN, "")}, "access mode is missing"},
		{[]*csi.VolumeCapability{mount(99, "")}, "not known"},
		{[]*csi.VolumeCapability{mount(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, "btrfs")}, "xfs or ext4"},
		{[]*csi.VolumeCapability{mount(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, "XFS")}, "xfs or ext4"},
		{[]*csi.VolumeCapability{mount(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, "")}, "raw block only"},
		{[]*csi.VolumeCapability{mount(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, ""), mount(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, "")}, "excludes every mode that writes"},
		{[]*csi.VolumeCapability{block(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY), block(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)}, "excludes every mode that writes"},
		{[]*csi.VolumeCapability{block(csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER)}, "MULTI_NODE_SINGLE_WRITER is not supported"},
		{[]*csi.VolumeCapability{block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER), mount(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, "")}, "not both"},
	} {
		_, err := checkCapabilities(c.give)
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%v: %v", c.give, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%v: got %v, want an error that says %q", c.give, err, c.says)
		}
	}
}

func goodSecrets() map[string]string {
	return map[string]string{
		chap.User: "initiator", chap.Password: "canary-pass-1",
		chap.UserIn: "target", chap.PasswordIn: "canary-pass-2!",
	}
}

func TestCHAPSecrets(t *testing.T) {
	without := func(keys ...string) map[string]string {
		m := goodSecrets()
		for _, key := range keys {
			delete(m, key)
		}
		return m
	}
	with := func(key, value string) map[string]string {
		m := goodSecrets()
		m[key] = value
		return m
	}
	for _, c := range []struct {
		give map[string]string
		mode string // "" when it is refused
	}{
		{nil, "none"},
		{map[string]string{}, "none"},
		{goodSecrets(), "mchap"},
		{without(chap.UserIn, chap.PasswordIn), "chap"},
		{with(chap.UserIn, ""), ""},
		{without(chap.User), ""},
		{without(chap.Password), ""},
		{without(chap.UserIn), ""},
		{without(chap.PasswordIn), ""},
		{without(chap.User, chap.Password), ""},
		{with(chap.Password, "short"), ""},
		{with(chap.Password, "canary-pass-too-long"), ""},
		{with(chap.Password, "canary pass 1"), ""},
		{with(chap.Password, "canary-pass-\n1"), ""},
		{with(chap.Password, "canary-pässe"), ""},
		{with(chap.PasswordIn, "canary-pass-1"), ""},
		{with(chap.User, "no spaces"), ""},
		{with(chap.User, "a"), ""},
		{with("node.session.auth.user", "x"), ""},
	} {
		got, err := parseCHAP(c.give)
		if (err == nil) != (c.mode != "") {
			t.Errorf("%v: got error %v, want mode %q", slicesOf(c.give), err, c.mode)
			continue
		}
		if err == nil && got.Mode() != c.mode {
			t.Errorf("%v: got %s, want %s", slicesOf(c.give), got.Mode(), c.mode)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("a secret is in the error %q", err)
		}
	}
	got, err := parseCHAP(goodSecrets())
	want := &dateraclient.CHAP{User: "initiator", Password: "canary-pass-1", UserIn: "target", PasswordIn: "canary-pass-2!"}
	if diff := cmp.Diff(got, want); err != nil || diff != "" {
		t.Errorf("error %v (-got +want):\n%s", err, diff)
	}
}

func slicesOf(m map[string]string) []string {
	var keys []string
	for key := range maps.Keys(m) {
		keys = append(keys, key)
	}
	return keys
}

func FuzzVolumeIDsSurviveTheRoundTrip(f *testing.F) {
	for _, s := range []string{"CSI-pvc-1", "east/CSI-pvc-1", "a/b/c", "..", "default/x", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := parseVolumeID(s)
		if err != nil {
			return
		}
		if id.String() != s {
			t.Errorf("%q is written as %q", s, id)
		}
		if strings.Contains(id.Name, "/") || strings.Contains(s, "..") || len(id.Name) > 64 {
			t.Errorf("%q is taken as %+v", s, id)
		}
	})
}

func FuzzNamesFitTheArray(f *testing.F) {
	for _, s := range []string{"pvc-1", "a b", "é", strings.Repeat("x", 128)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkName(s) != nil {
			return
		}
		if _, err := parseVolumeID(appInstanceName(s)); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	})
}
