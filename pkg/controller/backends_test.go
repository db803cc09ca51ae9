package controller

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// backend writes the files of a backend and returns the directory above it.
func backend(t *testing.T, dir, name string, files map[string]string) string {
	t.Helper()
	for file, value := range files {
		path := filepath.Join(dir, name, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func good() map[string]string {
	return map[string]string{
		"endpoint": "https://array.example:7718\n", "tenant": "/root/prod\n", "username": "admin\n", "password": "canary pass \n",
	}
}

func TestBackendsAreFoundWhenTheyAppear(t *testing.T) {
	dir := t.TempDir()
	b := OpenBackends(BackendsConfig{Dir: dir})
	if err := b.Check(); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "default")) {
		t.Errorf("no backends: got %v, want an error that says what to make", err)
	}
	if _, err := b.array("default"); !errors.Is(err, errUnknownBackend) {
		t.Fatalf("got %v, want errUnknownBackend", err)
	}
	backend(t, dir, "default", good())
	first, err := b.array("default")
	if err != nil {
		t.Fatal(err)
	}
	if err = b.Check(); err != nil {
		t.Error(err)
	}
	if _, err = b.array("east"); !errors.Is(err, errUnknownBackend) || !strings.Contains(err.Error(), "default") {
		t.Errorf("got %v, want errUnknownBackend that lists the backends there are", err)
	}
	backend(t, dir, "east", good())
	second, err := b.array("east")
	if err != nil {
		t.Fatal(err)
	}
	if first == second {
		t.Error("two backends share a client")
	}
	names, err := b.Names()
	if diff := cmp.Diff(names, []string{"default", "east"}); err != nil || diff != "" {
		t.Errorf("error %v (-got +want):\n%s", err, diff)
	}
}

func TestAChangedBackendGetsANewClient(t *testing.T) {
	dir := backend(t, t.TempDir(), "default", good())
	b := OpenBackends(BackendsConfig{Dir: dir})
	before, err := b.array("default")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file, value string
		fresh       bool
	}{
		{"endpoint", "https://array.example:7718", false}, // only the newline went
		{"password", "rotated", false},                    // read at the next login
		{"tenant", "/root/other", true},
		{"endpoint", "https://other.example", true},
		{"insecure-skip-tls-verify", "true", true},
		{"proxy", "http://proxy.example:3128", true},
		{"proxy", "https://proxy.example:3128", true},
	} {
		backend(t, dir, "default", map[string]string{c.file: c.value})
		after, err := b.array("default")
		if err != nil {
			t.Fatal(err)
		}
		if (after != before) != c.fresh {
			t.Errorf("%s is now %q: new client %v, want %v", c.file, c.value, after != before, c.fresh)
		}
		before = after
	}
}

func TestBadBackendFilesAreNamed(t *testing.T) {
	for _, c := range []struct{ file, value, says string }{
		{"endpoint", "", "endpoint is missing or empty"},
		{"endpoint", "array.example", "endpoint"},
		{"endpoint", "ftp://array.example", "ftp://array.example"},
		{"endpoint", "https://user:canary@array.example", "endpoint"},
		{"endpoint", "https://array.example/v2", "endpoint"},
		{"endpoint", "https://arr\x01ay", "endpoint"},
		{"tenant", "/root/a b", "tenant"},
		{"username", "\n", "username is missing or empty"},
		{"password", "", "password is missing or empty"},
		{"ca.crt", "no certificate", "ca.crt"},
		{"insecure-skip-tls-verify", "1", "neither true nor false"},
		{"proxy", "proxy.example:3128", "file"},
		{"proxy", "socks5://user:canary@proxy.example", "http://HOST:PORT"},
	} {
		files := good()
		files[c.file] = c.value
		dir := backend(t, t.TempDir(), "default", files)
		err := OpenBackends(BackendsConfig{Dir: dir}).Check()
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "default") {
			t.Errorf("%s %q: got %v, want an error that says %q", c.file, c.value, err, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s %q: a secret is in the error %v", c.file, c.value, err)
		}
	}
}

func TestInsecureContradictsACA(t *testing.T) {
	files := good()
	files["ca.crt"], files["insecure-skip-tls-verify"] = "x", "true"
	dir := backend(t, t.TempDir(), "default", files)
	if _, err := OpenBackends(BackendsConfig{Dir: dir}).array("default"); !errors.Is(err, errBackend) || !strings.Contains(err.Error(), "contradicts") {
		t.Errorf("got %v, want errBackend that says so", err)
	}
}

// Kubernetes mounts a Secret as links into a directory that the link ..data
// names, and turns that link to change all files at once.
func TestBackendsMountedByKubernetes(t *testing.T) {
	dir := t.TempDir()
	mounted := filepath.Join(dir, "default")
	backend(t, mounted, "..2026_01", good())
	changed := good()
	changed["tenant"], changed["username"] = "/root/new", "rotated"
	backend(t, mounted, "..2026_02", changed)
	turn(t, mounted, "..2026_01")
	for file := range good() {
		if err := os.Symlink(filepath.Join("..data", file), filepath.Join(mounted, file)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "..2026_03"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := OpenBackends(BackendsConfig{Dir: dir})
	if err := b.Check(); err != nil {
		t.Fatal(err)
	}
	names, err := b.Names()
	if diff := cmp.Diff(names, []string{"default"}); err != nil || diff != "" {
		t.Errorf("error %v (-got +want):\n%s", err, diff)
	}
	user, password, err := credentials(mounted)
	if user != "admin" || password != "canary pass " || err != nil {
		t.Errorf("got %q, %q, %v, want values without their newline only", user, password, err)
	}
	turn(t, mounted, "..2026_02")
	s, err := readSettings(mounted)
	if s.tenant != "/root/new" || err != nil {
		t.Errorf("got tenant %q, %v, want the new one", s.tenant, err)
	}
	if user, _, err = credentials(mounted); user != "rotated" || err != nil {
		t.Errorf("got user %q, %v, want the new one", user, err)
	}
}

// turn makes ..data name another directory, as Kubernetes does.
func turn(t *testing.T, mounted, to string) {
	t.Helper()
	tmp := filepath.Join(mounted, "..data_tmp")
	if err := errors.Join(os.Symlink(to, tmp), os.Rename(tmp, filepath.Join(mounted, "..data"))); err != nil {
		t.Error(err)
	}
}

// A Secret that changes while it is read loses no file: without its tenant, a volume
// would be looked for in /root, and what is not found there taken for deleted.
func TestASecretThatChangesWhileItIsReadIsWhole(t *testing.T) {
	dir := t.TempDir()
	mounted := filepath.Join(dir, "default")
	files := good()
	files["topology"] = "zone=east"
	made := 0
	swap := func() { // as Kubernetes does: make, turn, remove
		made++
		backend(t, mounted, fmt.Sprintf("..%d", made), files)
		turn(t, mounted, fmt.Sprintf("..%d", made))
		if err := os.RemoveAll(filepath.Join(mounted, fmt.Sprintf("..%d", made-1))); err != nil {
			t.Error(err)
		}
	}
	swap()
	var s settings
	for times := range swaps {
		left := times
		err := together(mounted, func(now string) (err error) {
			if left--; left >= 0 {
				swap()
			}
			s, err = settingsIn(mounted, now)
			return err
		})
		if s.tenant != "/root/prod" || err != nil {
			t.Errorf("changed %d times: got tenant %q, %v", times, s.tenant, err)
		}
	}
	err := together(mounted, func(string) error { swap(); return nil })
	if err == nil || !strings.Contains(err.Error(), mounted) {
		t.Errorf("changed at every look: got %v, want an error that says so", err)
	}

	b := OpenBackends(BackendsConfig{Dir: dir})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				swap()
			}
		}
	}()
	for range 300 { // an error is no harm
		if s, err := readSettings(mounted); err == nil && s.tenant != "/root/prod" {
			t.Errorf("got tenant %q", s.tenant)
		}
		if set, err := b.topology("default"); err == nil && len(set) != 1 {
			t.Errorf("got topology %v", set)
		}
	}
	close(stop)
	<-stopped
}

// One backend that is unfit does not take the plugin down.
func TestReadyNeedsOneBackend(t *testing.T) {
	dir := t.TempDir()
	b := OpenBackends(BackendsConfig{Dir: dir})
	if err := b.Ready(); err == nil || !strings.Contains(err.Error(), "holds no backend") {
		t.Errorf("without any: got %v", err)
	}
	backend(t, dir, "broken", map[string]string{"endpoint": "ftp://array.example"})
	if err := b.Ready(); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("with a broken one: got %v", err)
	}
	backend(t, dir, "default", good())
	if err := b.Ready(); err != nil {
		t.Errorf("with a good one too: got %v", err)
	}
	if err := b.Check(); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("what is wrong must still be told: got %v", err)
	}
	if err := OpenBackends(BackendsConfig{Dir: filepath.Join(dir, "absent")}).Ready(); err == nil {
		t.Error("without the directory: got no error")
	}
}

// A directory that cannot be a backend for its name is not passed over in silence.
func TestAMisnamedBackendIsNamed(t *testing.T) {
	long := strings.Repeat("b", 41)
	dir := backend(t, t.TempDir(), long, good())
	b := OpenBackends(BackendsConfig{Dir: dir})
	if err := b.Ready(); err == nil || !strings.Contains(err.Error(), long) || !strings.Contains(err.Error(), "1 to 40") {
		t.Errorf("alone: got %v, want an error that says how long a name may be", err)
	}
	backend(t, dir, "default", good())
	if err := b.Ready(); err != nil {
		t.Errorf("beside another: got %v", err)
	}
	if err := b.Check(); err == nil || !strings.Contains(err.Error(), long) {
		t.Errorf("beside another, it must still be told: got %v", err)
	}
	if names, err := b.Names(); err != nil || len(names) != 1 {
		t.Errorf("got %v, %v, want default", names, err)
	}
}

// What was served and is gone may hold what an earlier call has made.
func TestABackendThatIsGoneIsNotUnknown(t *testing.T) {
	dir := backend(t, t.TempDir(), "default", good())
	b := OpenBackends(BackendsConfig{Dir: dir})
	if _, err := b.array("default"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "default")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.array("default"); !errors.Is(err, errBackend) || errors.Is(err, errUnknownBackend) {
		t.Errorf("got %v, want errBackend", err)
	}
	if _, err := b.array("other"); !errors.Is(err, errUnknownBackend) {
		t.Errorf("got %v, want errUnknownBackend", err)
	}
}
