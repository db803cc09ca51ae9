package sim_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// volumeFile is the backing file of the first volume of an app instance.
func volumeFile(t *testing.T, dir string, app any) string {
	t.Helper()
	return filepath.Join(dir, "volumes", at(t, app, "storage_instances", 0, "volumes", 0, "uuid").(string)+".img")
}

// away takes a file or directory away, so that work on it fails, until it is put back.
func away(t *testing.T, path string) (back func()) {
	t.Helper()
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	rename(path, path+".away")
	return func() { rename(path+".away", path) }
}

// stall puts a pipe in the place of a file: who copies it waits until it is let go.
func stall(t *testing.T, file string) (letGo func()) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := os.OpenFile(file, unix.O_PATH, 0) // it may be removed before it is let go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { path.Close() })
	letGo = func() {
		t.Helper()
		writer, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", path.Fd()), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { writer.Close() }) // who comes later does not wait either
	}
	t.Cleanup(letGo)
	return letGo
}

// begin sends a request and answers its status when it comes.
func (c *caller) begin(method, path string, in any) <-chan int {
	answered := make(chan int, 1)
	go func() {
		status, _, _ := c.send(method, path, in)
		answered <- status
	}()
	return answered
}

// await reads an object until it is there and fits.
func (c *caller) await(path string, fits func(m) bool) {
	c.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		status, out, err := c.send("GET", path, nil)
		if data, ok := out["data"].(m); err == nil && status == http.StatusOK && ok && fits(data) {
			return
		}
	}
	c.t.Fatalf("waited in vain for %s", path)
}

func whatever(m) bool { return true }

func TestWhatTheFilesDoNotHaveIsNotShown(t *testing.T) {
	dir := t.TempDir()
	s := simtest.Start(t, inDir(dir))
	c := dial(t, s)
	file := volumeFile(t, dir, c.data("POST", "/app_instances", simple("demo", 5)))
	ts := c.data("POST", demoVolume+"/snapshots", nil)["utc_ts"].(string)
	group := c.data("POST", "/app_instances/demo/snapshots", nil)["utc_ts"].(string)

	back := away(t, file)
	c.refused(500, "InternalError", "PUT", demoVolume, m{"size": 6})
	if _, err := os.Stat(file); err == nil {
		t.Error("zeros are in the place of a lost file")
	}
	back()
	if got := c.data("GET", demoVolume, nil)["size"]; got != 5.0 {
		t.Errorf("after a growth that failed: %v GiB", got)
	}
	if got := c.data("PUT", demoVolume, m{"size": 6})["size"]; got != 6.0 {
		t.Errorf("after a growth: %v GiB", got)
	}

	c.data("PUT", "/app_instances/demo", m{"admin_state": "offline"})
	back = away(t, filepath.Join(dir, "snapshots"))
	c.refused(500, "InternalError", "PUT", demoVolume, m{"restore_point": ts})
	c.refused(500, "InternalError", "PUT", "/app_instances/demo", m{"restore_point": group})
	back()
	app := c.data("GET", "/app_instances/demo", nil)
	if got := at(t, app, "storage_instances", 0, "volumes", 0, "restore_point"); got != nil || app["restore_point"] != nil {
		t.Errorf("restored to %v and %v", got, app["restore_point"])
	}
	if got := c.data("PUT", "/app_instances/demo", m{"restore_point": group}); got["restore_point"] != group {
		t.Errorf("restore_point is %v", got["restore_point"])
	}
}

func TestPartsWithoutFilesAreNotKept(t *testing.T) {
	dir := t.TempDir()
	s := simtest.Start(t, inDir(dir))
	c := dial(t, s)
	c.data("POST", "/app_instances", simple("demo", 5))
	volume := m{"name": "volume-2", "size": 1}
	storage := m{"name": "storage-2", "volumes": []m{volume}}
	steps := []struct {
		method, path string
		body         m
	}{
		{"POST", demoStorage + "/volumes", volume},
		{"POST", "/app_instances/demo/storage_instances", storage},
		{"PUT", "/app_instances/demo", m{"storage_instances": []m{{"name": "storage-1", "volumes": []m{volume}}, storage}}},
	}
	before := c.data("GET", "/app_instances/demo", nil)
	for _, step := range steps {
		back := away(t, filepath.Join(dir, "volumes"))
		c.refused(500, "InternalError", step.method, step.path, step.body)
		back()
		if diff := cmp.Diff(before, c.data("GET", "/app_instances/demo", nil)); diff != "" {
			t.Errorf("%s %s left (-before +after):\n%s", step.method, step.path, diff)
		}
	}
	for _, step := range steps[:2] { // the names are free
		c.data(step.method, step.path, step.body)
	}
	c = restart(t, s, dir)
	if got := len(c.list("/app_instances/demo/storage_instances")); got != 2 {
		t.Errorf("%d storage instances", got)
	}
}

func TestWhatIsDeletedWhileItIsCopiedLeavesNoFiles(t *testing.T) {
	dir := t.TempDir()
	s := simtest.Start(t, inDir(dir))
	c := dial(t, s)
	made := c.data("POST", "/app_instances", simple("demo", 1))
	letGo := stall(t, volumeFile(t, dir, made))
	clone := c.begin("POST", "/app_instances", m{"name": "copy", "clone_src": m{"path": made["path"]}})
	c.await("/app_instances/copy", whatever)
	single, group := c.begin("POST", demoVolume+"/snapshots", nil), c.begin("POST", "/app_instances/demo/snapshots", nil)
	var ts string
	for _, base := range []string{demoVolume, "/app_instances/demo"} {
		c.await(base, func(o m) bool {
			if of, _ := o["snapshots"].([]any); len(of) == 1 {
				ts = at(t, of, 0, "utc_ts").(string)
				return true
			}
			return false
		})
		if base == demoVolume {
			c.data("DELETE", base+"/snapshots/"+ts, nil)
		}
	}
	c.data("DELETE", "/app_instances/copy", m{"force": true})
	c.data("DELETE", "/app_instances/demo", m{"force": true})
	letGo()
	<-clone
	<-single
	<-group
	for _, sub := range []string{"app_instances", "volumes", "snapshots"} {
		if left, err := os.ReadDir(filepath.Join(dir, sub)); err != nil || len(left) != 0 {
			t.Errorf("%s holds %v, %v", sub, left, err)
		}
	}
}

func TestACloneIsNothingBeforeItIsWhole(t *testing.T) {
	dir := t.TempDir()
	s := simtest.Start(t, inDir(dir))
	c := dial(t, s)
	made := c.data("POST", "/app_instances", simple("demo", 1))
	saved := func() int {
		t.Helper()
		files, err := os.ReadDir(filepath.Join(dir, "app_instances"))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	letGo := stall(t, volumeFile(t, dir, made))
	clone := c.begin("POST", "/app_instances", m{"name": "copy", "clone_src": m{"path": made["path"]}})
	c.await("/app_instances/copy", func(o m) bool { return o["op_state"] == "cloning" })
	c.refused(400, "InvalidRequestError", "PUT", "/app_instances/copy/storage_instances/storage-1/volumes/volume-1", m{"size": 2})
	c.refused(400, "InvalidRequestError", "POST", "/app_instances", m{"name": "other", "clone_src": m{"path": "/app_instances/copy"}})
	c.data("PUT", "/app_instances/copy", m{"admin_state": "offline"}) // as who wants to delete it does, who waits for no copy
	if n := saved(); n != 1 {
		t.Errorf("%d app instances are on disk while one is a clone that is being copied", n)
	}
	letGo()
	if status := <-clone; status != http.StatusOK {
		t.Errorf("the clone is answered with %d", status)
	}
	if n := saved(); n != 2 {
		t.Errorf("%d app instances are on disk, want both", n)
	}
	c = restart(t, s, dir)
	if got := c.data("GET", "/app_instances/copy", nil); got["op_state"] != nil || got["admin_state"] != "offline" {
		t.Errorf("op_state %v, admin_state %v", got["op_state"], got["admin_state"])
	}
}

func TestARestoredVolumeIsShownWhenItsDataIsThere(t *testing.T) {
	p, dir := newPlane(), t.TempDir()
	c := dial(t, simtest.Start(t, inDir(dir), func(cfg *sim.Config) { cfg.Exporter = p }))
	made := c.data("POST", "/app_instances", simple("demo", 1))
	ts := c.data("POST", demoVolume+"/snapshots", nil)["utc_ts"].(string)
	group := c.data("POST", "/app_instances/demo/snapshots", nil)["utc_ts"].(string)
	c.data("PUT", "/app_instances/demo", m{"admin_state": "offline"})
	uuid := at(t, made, "storage_instances", 0, "volumes", 0, "uuid").(string)
	letGo := stall(t, filepath.Join(dir, "snapshots", uuid+"@"+ts+".img"))
	restore := c.begin("PUT", demoVolume, m{"restore_point": ts})
	c.await(demoVolume, func(o m) bool { return o["op_status"] == "internal_operation_in_progress" })
	for path, body := range map[string]m{demoVolume: {"restore_point": ts}, "/app_instances/demo": {"restore_point": group}} {
		c.refused(400, "InvalidRequestError", "PUT", path, body)
	}
	c.refused(400, "InvalidRequestError", "PUT", demoVolume, m{"size": 2})
	c.data("PUT", "/app_instances/demo", m{"admin_state": "online"})
	if shown, _ := p.Targets(); len(shown) != 0 {
		t.Errorf("half restored and shown: %v", shown)
	}
	letGo()
	if status := <-restore; status != http.StatusOK {
		t.Errorf("the restore is answered with %d", status)
	}
	p.get(t, at(t, made, "storage_instances", 0, "access", "iqn").(string))
}

// A crash during the copy leaves a snapshot in the state and no file of it.
func TestSnapshotsWithoutDataAreNotLoaded(t *testing.T) {
	dir := t.TempDir()
	s := simtest.Start(t, inDir(dir))
	c := dial(t, s)
	c.data("POST", "/app_instances", simple("demo", 1))
	take := func(base string) string { return c.data("POST", base+"/snapshots", nil)["utc_ts"].(string) }
	lost, group := take(demoVolume), take("/app_instances/demo")
	c.data("POST", demoStorage+"/volumes", m{"name": "volume-2", "size": 1}) // younger than the group
	kept, partial := take(demoVolume), take("/app_instances/demo")
	for _, ts := range []string{lost, partial} {
		files, err := filepath.Glob(filepath.Join(dir, "snapshots", "*@"+ts+".img"))
		if err != nil || len(files) == 0 {
			t.Fatalf("files of snapshot %s: %v, %v", ts, files, err)
		}
		if err := os.Remove(files[len(files)-1]); err != nil {
			t.Fatal(err)
		}
	}
	c = restart(t, s, dir)
	for base, want := range map[string]string{demoVolume: kept, "/app_instances/demo": group} {
		if got := c.list(base + "/snapshots"); len(got) != 1 || at(t, got, 0, "utc_ts") != want {
			t.Errorf("%s has the snapshots %v, want %s", base, got, want)
		}
	}
}
