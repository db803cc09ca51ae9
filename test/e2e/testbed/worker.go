package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

// Where things are on a worker.
const (
	nodeSocket = "/run/datera-csi/csi.sock"
	Records    = "/var/lib/datera-csi"
	NodeLog    = "/var/log/datera-csi.log"

	MultipathConf = "/etc/multipath/conf.d/datera.conf" // the drop-in as it is shipped
)

// labMultipath is all that a laboratory wants besides what is shipped: maps over
// LUNs that nobody told multipathd of, and paths that are looked at more often.
const labMultipath = `defaults {
	find_multipaths no
	polling_interval 2
}
`

// MultipathFiles configure multipathd, by path on a worker: with the drop-in that
// is shipped.
func MultipathFiles() (map[string]string, error) {
	root, err := ModuleRoot()
	if err != nil {
		return nil, err
	}
	shipped, err := os.ReadFile(filepath.Join(root, "deploy/multipath/datera.conf"))
	if err != nil {
		return nil, err
	}
	return map[string]string{"/etc/multipath.conf": labMultipath, MultipathConf: string(shipped)}, nil
}

func workerSpec(number int) vm.Spec {
	return vm.Spec{
		Name:   fmt.Sprintf("worker-%d", number),
		OnBoot: "if [ -x /etc/testbed ]; then /etc/testbed; fi",
	}
}

// Worker is a guest with the node plugin, and the client of its services.
type Worker struct {
	*vm.Guest
	csi.NodeClient
	csi.IdentityClient

	ID string // the node id that the plugin answers: the initiator's IQN

	bed  *Bed
	conn *grpc.ClientConn
}

// install starts the host's daemons and the plugin.
func (w *Worker) install(ctx context.Context) error {
	if err := w.PutFile(ctx, filepath.Join(w.bed.bin, "datera-csi"), "/usr/local/bin/datera-csi"); err != nil {
		return err
	}
	multipathd := "modprobe dm_multipath; pgrep -x multipathd >/dev/null || multipathd"
	if w.bed.cfg.SinglePath {
		multipathd = "true"
	}
	script := fmt.Sprintf(`#!/bin/sh -e
modprobe iscsi_tcp
modprobe sg
%s
pgrep -x iscsid >/dev/null || iscsid
mkdir -p %s
setsid datera-csi node --host-exec=direct --endpoint=unix://%s --record-dir=%s -v=4 %s </dev/null >>%s 2>&1 &
`, multipathd, filepath.Dir(nodeSocket), nodeSocket, Records, strings.Join(w.bed.cfg.NodeFlags, " "), NodeLog)
	files, err := MultipathFiles()
	if err != nil {
		return err
	}
	files["/etc/testbed"] = script
	for path, content := range files {
		if err := w.Put(ctx, strings.NewReader(content), path, 0o755); err != nil {
			return err
		}
	}
	if _, err := w.Run(ctx, "/etc/testbed"); err != nil {
		return fmt.Errorf("start the node plugin: %w", err)
	}
	return w.Connect(ctx)
}

// Connect dials the plugin and waits until it is ready; do it again after the worker has booted again.
func (w *Worker) Connect(ctx context.Context) error {
	if w.conn != nil {
		if err := w.conn.Close(); err != nil {
			return err
		}
	}
	var err error
	w.conn, err = connect(w.bed.cfg.Progress, func(ctx context.Context) (net.Conn, error) { return w.DialUnix(ctx, nodeSocket) })
	if err != nil {
		return err
	}
	w.NodeClient, w.IdentityClient = csi.NewNodeClient(w.conn), csi.NewIdentityClient(w.conn)
	if err = probe(ctx, w.Name, w.IdentityClient); err != nil {
		log, _ := w.Shell(ctx, "tail -n 20 "+NodeLog) // what there is of it
		return fmt.Errorf("%w; its log ends with:\n%s", err, log)
	}
	info, err := w.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return fmt.Errorf("ask %s for its id: %w", w.Name, err)
	}
	w.ID = info.GetNodeId()
	return nil
}

// KillPlugin ends the plugin without ceremony, as the kernel's OOM killer would.
func (w *Worker) KillPlugin(ctx context.Context) error {
	_, err := w.Shell(ctx, "pkill -KILL -x datera-csi; while pgrep -x datera-csi >/dev/null; do sleep 0.05; done")
	return err
}

// StartPlugin starts the plugin again and waits until it is ready.
func (w *Worker) StartPlugin(ctx context.Context) error {
	if _, err := w.Run(ctx, "/etc/testbed"); err != nil {
		return err
	}
	return w.Connect(ctx)
}

// Reboot cuts the worker's power, boots it again and waits for the plugin.
func (w *Worker) Reboot(ctx context.Context) error {
	if err := w.Restart(ctx); err != nil {
		return err
	}
	return w.Connect(ctx)
}

// Leftovers are sessions, disks, maps, node database entries, mounts and records that exist, and the points of
// KillAt and HoldAt that wait for the plugin.
func (w *Worker) Leftovers(ctx context.Context) ([]string, error) {
	left, err := GuestLeftovers(ctx, w.Guest, "kubelet|/dev/sd|/dev/mapper|/dev/dm-")
	if err != nil {
		return nil, err
	}
	armed, err := w.Shell(ctx, "find "+faultPoints+"/kill "+faultPoints+"/hold -type f 2>/dev/null || true")
	return append(left, lines(w.Name+": armed ", armed)...), err
}

// GuestLeftovers are those of a guest with the plugin; an extended regular expression tells its mounts.
func GuestLeftovers(ctx context.Context, g *vm.Guest, mounts string) ([]string, error) {
	out, err := g.Shell(ctx, `
for s in /sys/class/iscsi_session/*; do [ -e "$s" ] && echo "session $(cat $s/targetname)"; done
for d in /sys/block/sd*; do [ -e "$d" ] && echo "disk ${d##*/}"; done
for m in /sys/block/dm-*/dm/uuid; do [ -e "$m" ] && grep -H mpath- $m; done
for d in /etc/iscsi/nodes /var/lib/iscsi/nodes; do [ -d $d ] && find $d -mindepth 1 -maxdepth 1; done
grep -E '`+mounts+`' /proc/mounts || true
find `+Records+` -maxdepth 1 -type f 2>/dev/null; true`)
	if err != nil {
		return nil, err
	}
	return lines(g.Name+": ", out), nil
}

func lines(prefix string, out []byte) []string {
	var all []string
	for line := range strings.Lines(string(bytes.TrimSpace(out))) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, prefix+line)
		}
	}
	return all
}

// eventually tries until it succeeds or the time is up; the error is that of the last try.
func eventually(ctx context.Context, what string, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, errors.Join(context.Cause(ctx), err))
		case <-tick.C:
		}
	}
}
