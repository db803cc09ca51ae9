package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/datera-csi/datera-csi/internal/durable"
)

// disk keeps the state below the data directory: one file for each app instance
// and one for all the rest. Every file is replaced as a whole, so that a crash
// at any moment leaves either the old or the new one.
type disk struct {
	dir    string
	lock   *os.File
	wanted atomic.Uint64 // generation of the rest that must be written
	mu     sync.Mutex    // guards the rest's file and what follows
	saved  uint64
}

const (
	appsDir  = "app_instances"
	restFile = "array.json"
)

// savedRest is what is not in the app instances' files.
type savedRest struct {
	System     systemState
	Tenants    []*tenant
	Initiators []*initiator
	Documents  []savedDocs
}

type savedDocs struct {
	Tenant, Path string
	Rows         []*doc
}

// openDisk takes possession of a data directory.
func openDisk(dir string) (*disk, error) {
	for _, sub := range []string{"", appsDir, "volumes", "snapshots"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("prepare the data directory, choose one that can be written: %w", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory, choose one that can be written: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("data directory %s is used by another process, stop that or choose another one: %w", dir, err), lock.Close())
	}
	return &disk{dir: dir, lock: lock}, nil
}

// Close gives the data directory free. The array must not be used any more.
func (a *Array) Close() error {
	if a.disk == nil {
		return nil
	}
	return a.disk.lock.Close()
}

func (d *disk) appFile(a *appInstance) string {
	return filepath.Join(d.dir, appsDir, a.ID+".json")
}

// persist makes the changes of a request durable, as many as can be.
func (a *Array) persist(c *changes) error {
	if a.disk == nil {
		return nil
	}
	var failed error
	for _, app := range slices.Concat(c.apps, c.gone) {
		failed = errors.Join(failed, a.saveApp(app))
	}
	if c.rest {
		failed = errors.Join(failed, a.saveRest())
	}
	return failed
}

// saveApp writes an app instance, or removes its file when it is gone. Savers of
// one app instance queue up and look at it only when it is their turn, so the
// file always ends up with the newest state. They wait for new volumes to have
// their files: after a crash nothing is known of what was not made to its end. A new
// app instance is saved by whoever makes it, and the others need not wait.
func (a *Array) saveApp(app *appInstance) (err error) {
	app.saving.Lock()
	defer app.saving.Unlock()
	defer func() { app.unsaved.Store(err != nil) }()
	a.mu.RLock()
	for !app.gone && app.unmade() {
		if !app.saved {
			a.mu.RUnlock()
			return nil
		}
		a.filled.Wait()
	}
	gone := app.gone
	var raw []byte
	if !gone {
		raw, err = json.Marshal(app)
	}
	a.mu.RUnlock()
	if err != nil {
		return fmt.Errorf("save app_instance %s: %w", app.Name, err)
	}
	if gone {
		return durable.Remove(a.disk.appFile(app)) // or a power cut would bring it back
	}
	err = replaceFile(a.disk.appFile(app), raw)
	app.saved = app.saved || err == nil
	return err
}

// saveRest writes all that is not in app instances. Requests that wait for one
// another's writing share the next one.
func (a *Array) saveRest() error {
	d := a.disk
	mine := d.wanted.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.saved >= mine {
		return nil
	}
	covers := d.wanted.Load()
	a.mu.RLock()
	raw, err := json.MarshalIndent(a.state.rest(), "", " ")
	a.mu.RUnlock()
	if err != nil {
		return fmt.Errorf("save the state: %w", err)
	}
	if err := replaceFile(filepath.Join(d.dir, restFile), raw); err != nil {
		return err
	}
	d.saved = covers
	return nil
}

func (s *state) rest() savedRest {
	saved := savedRest{System: s.system, Tenants: s.tenants.rows}
	for _, t := range s.tenants.rows {
		saved.Initiators = append(saved.Initiators, t.initiators.rows...)
	}
	for k, docs := range s.documents {
		saved.Documents = append(saved.Documents, savedDocs{k.tenant, k.path, docs.rows})
	}
	return saved
}

func replaceFile(path string, raw []byte) error {
	if err := durable.Replace(path, raw); err != nil {
		return fmt.Errorf("save the state: %w", err)
	}
	return nil
}
