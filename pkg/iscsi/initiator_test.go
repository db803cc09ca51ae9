package iscsi_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// FM 10: a name that other hosts may have too is no name.
func TestName(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ file, want string }{
		"plain":               {"InitiatorName=iqn.1993-08.org.debian:01:abc\n", "iqn.1993-08.org.debian:01:abc"},
		"comments and blanks": {"# x\n\n  InitiatorName = iqn.1994-05.com.redhat:5e7a  \nInitiatorAlias=a\n", "iqn.1994-05.com.redhat:5e7a"},
		"eui":                 {"InitiatorName=eui.02004567A425678D\n", "eui.02004567A425678D"},
		"empty file":          {"", ""},
		"empty name":          {"InitiatorName=\n", ""},
		"commented out":       {"#InitiatorName=iqn.1993-08.org.debian:01:abc\n", ""},
		"to be generated":     {"GenerateName=yes\n", ""},
		"not a name":          {"InitiatorName=myhost\n", ""},
		"with blanks inside":  {"InitiatorName=iqn.1993-08.org debian\n", ""},
		"the manual's":        {"InitiatorName=iqn.2001-04.com.example:storage.host1\n", ""},
		"naa":                 {"InitiatorName=naa.62004567BA64678D0123456789ABC\n", "naa.62004567BA64678D0123456789ABC"},
		"nothing of its own":  {"InitiatorName=iqn.1993-08.org.debian\n", ""},
		"an empty own part":   {"InitiatorName=iqn.1993-08.org.debian:\n", ""},
		"an own part of none": {"InitiatorName=iqn.1993-08.org.debian::0\n", ""},
		"a placeholder":       {"InitiatorName=iqn.1993-08.org.debian:@@NAME@@\n", ""},
		"eui of nothing":      {"InitiatorName=eui.0000000000000000\n", ""},
		"eui without number":  {"InitiatorName=eui.\n", ""},
		"too long":            {"InitiatorName=iqn.a:" + strings.Repeat("x", 250) + "\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.write("etc/iscsi/initiatorname.iscsi", tt.file)
			got, err := h.initiator().Name()
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if tt.want == "" && (!errors.Is(err, iscsi.ErrNotReady) || !strings.Contains(err.Error(), "initiatorname.iscsi")) {
				t.Errorf("err = %v, want ErrNotReady naming the file", err)
			}
			if tt.want != "" && err != nil {
				t.Error(err)
			}
		})
	}
}

// FM 26: each thing that is missing is named with its remedy.
func TestReady(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		break_ func(*host)
		remedy string // "" means ready
	}{
		"whole":         {func(*host) {}, ""},
		"no open-iscsi": {func(h *host) { h.remove("etc/iscsi") }, "install open-iscsi"},
		"no iscsid":     {func(h *host) { h.write("proc/1/net/unix", "Num\n") }, "systemctl enable --now iscsid.socket"},
		"no PID 1":      {func(h *host) { h.remove("proc/1") }, "PID namespace"},
		"no module":     {func(h *host) { h.remove("sys/class/iscsi_transport"); h.exits["modprobe iscsi_tcp"] = 1 }, "iscsi_tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			tt.break_(h)
			err := h.initiator().Ready(t.Context())
			if tt.remedy == "" && err != nil {
				t.Error(err)
			}
			if tt.remedy != "" && (!errors.Is(err, iscsi.ErrNotReady) || !strings.Contains(err.Error(), tt.remedy)) {
				t.Errorf("err = %v, want ErrNotReady with %q", err, tt.remedy)
			}
		})
	}
}

func TestReadyLoadsTheModule(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.remove("sys/class/iscsi_transport")
	h.exits["modprobe iscsi_tcp"] = 0
	h.after["modprobe iscsi_tcp"] = func() { h.write("sys/class/iscsi_transport/tcp/handle", "1\n") }
	if err := h.initiator().Ready(t.Context()); err != nil {
		t.Error(err)
	}
}
