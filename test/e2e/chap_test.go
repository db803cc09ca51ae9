//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// Keys of the provisioner secret and of the node stage secret.
const (
	chapUser       = "node.session.auth.username"
	chapPassword   = "node.session.auth.password"
	chapUserIn     = "node.session.auth.username_in"
	chapPasswordIn = "node.session.auth.password_in"
)

// Passwords that cannot occur by chance.
const (
	canary      = "cAnAry-one-4711"
	canaryIn    = "cAnAry-two-0815"
	canaryWrong = "cAnAry-bad-0007"
)

// createWithSecrets makes a volume that only a login with the secrets reaches.
func createWithSecrets(ctx context.Context, t testing.TB, bed *testbed.Bed, name string, secrets map[string]string) *testbed.Volume {
	t.Helper()
	as := testbed.Mount("xfs")
	res, err := bed.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: giB}, VolumeCapabilities: []*csi.VolumeCapability{as}, Secrets: secrets,
	})
	must(t, err)
	v := res.GetVolume()
	return &testbed.Volume{Name: name, ID: v.GetVolumeId(), Context: v.GetVolumeContext(), Capability: as, Secrets: secrets}
}

// TestCHAP lets in who has the secrets, one-way and mutual, and nobody else; who
// was refused leaves nothing; and the secrets show nowhere (FM 40).
func TestCHAP(t *testing.T) {
	for name, secrets := range map[string]map[string]string{
		"one-way": {chapUser: "initiator-user", chapPassword: canary},
		"mutual":  {chapUser: "initiator-user", chapPassword: canary, chapUserIn: "target-user", chapPasswordIn: canaryIn},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, bed := useBed(t)
			fault(t, "logins with wrong or missing secrets")
			w := bed.Workers[0]
			talkMore(ctx, t, w)
			argv := watchPrograms(ctx, t, w)
			v := createWithSecrets(ctx, t, bed, "chap-"+name, secrets)
			published, err := bed.Publish(ctx, v, w)
			must(t, err)

			for _, wrong := range wrongSecrets(secrets) {
				v.Secrets = wrong
				err = w.Stage(ctx, v, published)
				expectCode(t, err, codes.Unauthenticated)
				if strings.Contains(err.Error(), "cAnAry") {
					t.Errorf("the error holds a secret: %v", err)
				}
				expectUntouched(ctx, t, w) // kubelet does not unstage after this code
			}

			v.Secrets = secrets
			must(t, w.Stage(ctx, v, published))
			must(t, w.PublishTo(ctx, v, published, "pod-0"))
			write(ctx, t, w, testbed.TargetPath(v, "pod-0")+"/data", 64)
			expectPrivateNodeRecords(ctx, t, w)
			expectNoSecrets(ctx, t, bed, w, argv())
			gone(ctx, t, bed, v)
		})
	}
}

// Secrets after a rotation.
const (
	canaryNext   = "cAnAry-six-1313"
	canaryNextIn = "cAnAry-ten-2424"
	canaryLast   = "cAnAry-end-3535"
)

// TestCHAPRotation is FM 20 and 40: the secrets change on the array and in the
// cluster while the volume is written to. Its sessions go on; the next stage takes
// the new secrets in, and a session that is lost later, and that iscsid tries to
// bring back with the old ones for ever, is made anew with them. So are both of a
// volume, one after the other. The old and the new ones show nowhere.
func TestCHAPRotation(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "secrets are rotated, then paths are lost")
	w := bed.Workers[0]
	impatient(ctx, t, w)
	talkMore(ctx, t, w)
	argv := watchPrograms(ctx, t, w)
	v := createWithSecrets(ctx, t, bed, "chap-rotation", map[string]string{chapUser: "initiator-user", chapPassword: canary, chapUserIn: "target-user", chapPasswordIn: canaryIn})
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	must(t, w.Stage(ctx, v, published))
	must(t, w.PublishTo(ctx, v, published, "pod-0"))
	dir := testbed.TargetPath(v, "pod-0")
	writer := startStream(ctx, t, w, dir)
	first := sessionIDs(ctx, t, w)

	rotate(ctx, t, bed, v, canaryNext, canaryNextIn)
	must(t, w.Stage(ctx, v, published))
	expectPrivateNodeRecords(ctx, t, w)
	expectSecretOfSessions(ctx, t, w, canary, canary)
	if now := sessionIDs(ctx, t, w); now != first {
		t.Errorf("sessions were %s and are %s", first, now)
	}
	losePortal(ctx, t, w, 1)
	awaitPaths(ctx, t, w, 2)
	expectSecretOfSessions(ctx, t, w, canary, canaryNext)
	writer.stopUnharmed(ctx, t)
	acked := writer.acked(ctx, t)

	// Without any path it may take longer than multipath queues, and then the file
	// system shuts down. What was acknowledged is there when it is staged anew.
	rotate(ctx, t, bed, v, canaryLast, canaryIn)
	must(t, w.Stage(ctx, v, published))
	losePortal(ctx, t, w, 0, 1)
	awaitPaths(ctx, t, w, 2)
	expectSecretOfSessions(ctx, t, w, canaryLast, canaryLast)
	must(t, w.UnpublishFrom(ctx, v, "pod-0"))
	must(t, eventually(ctx, func() error { return w.Unstage(ctx, v) }))
	must(t, w.Stage(ctx, v, published))
	must(t, w.PublishTo(ctx, v, published, "pod-0"))
	expectStream(ctx, t, w, dir, acked)
	expectNoSecrets(ctx, t, bed, w, argv())
	gone(ctx, t, bed, v)
}

// rotate gives a volume other passwords, on the array and for its next stage.
func rotate(ctx context.Context, t testing.TB, bed *testbed.Bed, v *testbed.Volume, password, passwordIn string) {
	t.Helper()
	path := "/app_instances/" + v.ID + "/storage_instances"
	var all []struct {
		Name string `json:"name"`
	}
	must(t, bed.Array.REST(ctx, http.MethodGet, path, nil, &all))
	var now struct {
		Type string `json:"type"`
	}
	must(t, bed.Array.REST(ctx, http.MethodPut, path+"/"+all[0].Name+"/auth", map[string]string{
		"type": "mchap", "target_user_name": v.Secrets[chapUser], "target_pswd": password,
		"initiator_user_name": v.Secrets[chapUserIn], "initiator_pswd": passwordIn,
	}, &now))
	v.Secrets = map[string]string{chapUser: v.Secrets[chapUser], chapPassword: password, chapUserIn: v.Secrets[chapUserIn], chapPasswordIn: passwordIn}
}

// losePortal takes networks away until the worker's sessions there are lost.
func losePortal(ctx context.Context, t testing.TB, w *testbed.Worker, networks ...int) {
	t.Helper()
	for _, n := range networks {
		must(t, w.SetLink(ctx, n, false))
		t.Cleanup(func() { must(t, w.SetLink(context.WithoutCancel(ctx), n, true)) })
	}
	must(t, eventually(ctx, func() error {
		_, err := w.Shell(ctx, fmt.Sprintf("[ $(grep -L LOGGED_IN /sys/class/iscsi_session/*/state | wc -l) = %d ]", len(networks)))
		return err
	}))
	for _, n := range networks {
		must(t, w.SetLink(ctx, n, true))
	}
}

// expectSecretOfSessions asks the kernel by which passwords the sessions were made.
func expectSecretOfSessions(ctx context.Context, t testing.TB, w *testbed.Worker, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := sh(ctx, t, w.Guest, "cat /sys/class/iscsi_session/*/password | sort | paste -sd ' '"); got != strings.Join(want, " ") {
		t.Errorf("the sessions have passwords %s, want %s", got, strings.Join(want, " "))
	}
}

// wrongSecrets are secrets that must be refused where the right ones are these:
// none, another password, and one that the target does not answer to.
func wrongSecrets(right map[string]string) []map[string]string {
	wrong := []map[string]string{
		nil,
		{chapUser: right[chapUser], chapPassword: canaryWrong},
	}
	if right[chapUserIn] != "" {
		wrong = append(wrong, map[string]string{
			chapUser: right[chapUser], chapPassword: right[chapPassword], chapUserIn: right[chapUserIn], chapPasswordIn: canaryWrong,
		})
	}
	return wrong
}

// expectUntouched checks that a worker holds nothing of any volume.
func expectUntouched(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	left, err := w.Leftovers(ctx)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("a refused login left:\n%s", strings.Join(left, "\n"))
	}
}

// talkMore runs the plugin with its most talkative log while the test runs.
func talkMore(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	restart := func(ctx context.Context, from, to string) {
		sh(ctx, t, w.Guest, "sed -i 's/ -v="+from+" / -v="+to+" /' /etc/testbed")
		must(t, w.KillPlugin(ctx))
		must(t, w.StartPlugin(ctx))
	}
	restart(ctx, "4", "5")
	t.Cleanup(func() { restart(context.WithoutCancel(ctx), "5", "4") })
}

// watchPrograms traces every program that the plugin starts, with all arguments
// and the whole environment; the function it returns ends that and says what was
// seen.
func watchPrograms(ctx context.Context, t testing.TB, w *testbed.Worker) func() string {
	t.Helper()
	sh(ctx, t, w.Guest, "rm -f /run/execve; setsid strace -f -v -s 65536 -e trace=execve -o /run/execve -p $(pgrep -x datera-csi) >/dev/null 2>&1 </dev/null & "+
		"for i in $(seq 100); do grep -q '^TracerPid:.*[1-9]' /proc/$(pgrep -x datera-csi)/status && exit 0; sleep 0.1; done; exit 1")
	return func() string {
		return sh(ctx, t, w.Guest, "pkill -x strace; for i in $(seq 100); do pgrep -x strace >/dev/null || break; sleep 0.1; done; cat /run/execve; rm /run/execve")
	}
}

// expectPrivateNodeRecords wants a record for each portal, which root alone can
// read: the password must be in there, for iscsiadm reads it nowhere else.
func expectPrivateNodeRecords(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	modes := sh(ctx, t, w.Guest, "grep -rl '^node.session.auth.password = "+canary[:7]+"' /etc/iscsi/nodes /var/lib/iscsi/nodes 2>/dev/null | xargs stat -c '%a %U'")
	if modes != "600 root\n600 root" {
		t.Errorf("the node records have modes and owners\n%s\nwant 600 root, twice", modes)
	}
}

// expectNoSecrets looks for the passwords wherever a log, a process, a record or
// a forgotten file could show them.
func expectNoSecrets(ctx context.Context, t testing.TB, bed *testbed.Bed, w *testbed.Worker, argv string) {
	t.Helper()
	if !strings.Contains(argv, "iscsiadm") || !strings.Contains(argv, "--login") {
		t.Errorf("the login was not seen among the programs:\n%s", argv)
	}
	if strings.Contains(argv, "cAnAry") {
		t.Errorf("a program was given a secret:\n%s", argv)
	}
	// Written so that the search does not find itself.
	found := sh(ctx, t, w.Guest, "grep -rlas 'cAnA[r]y' /var/log "+testbed.Records+" /run /tmp /etc/datera* || true; grep -las 'cAnA[r]y' /proc/[0-9]*/cmdline /proc/[0-9]*/environ || true; dmesg | grep 'cAnA[r]y' || true")
	if found != "" {
		t.Errorf("secrets on the worker:\n%s", found)
	}
	if n := sh(ctx, t, w.Guest, "grep -c 'NodeStageVolume' "+testbed.NodeLog); n == "0" {
		t.Error("the plugin's log says nothing of the stage")
	}
	logs := t.TempDir()
	must(t, bed.CollectLogs(ctx, logs))
	seen := 0
	must(t, filepath.WalkDir(logs, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen++
		if bytes.Contains(content, []byte("cAnAry")) && filepath.Base(path) != "commands.log" { // the test's own
			t.Errorf("a secret is in %s", path)
		}
		return nil
	}))
	if seen < 10 {
		t.Errorf("only %d logs were collected", seen)
	}
}
