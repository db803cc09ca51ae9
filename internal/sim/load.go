package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// load takes up the state of a data directory. It says whether there was one.
func (a *Array) load() (bool, error) {
	raw, err := os.ReadFile(filepath.Join(a.disk.dir, restFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the state: %w", err)
	}
	var saved savedRest
	if err = json.Unmarshal(raw, &saved); err != nil {
		return false, fmt.Errorf("read the state in %s: %w", filepath.Join(a.disk.dir, restFile), err)
	}
	a.state = a.state.with(saved)
	apps, err := a.loadApps()
	if err != nil {
		return false, err
	}
	for _, app := range apps {
		if err := a.adopt(app); err != nil {
			return false, err
		}
	}
	return true, nil
}

// with is an empty state with what was saved of the rest.
func (s *state) with(saved savedRest) *state {
	fresh := &state{documents: map[docKey]*table[*doc]{}, volumes: map[string]*volume{}, targets: map[string]*storageInstance{}}
	nodes := slices.Concat(saved.System.NodeUUIDs, s.system.NodeUUIDs)
	fresh.system = saved.System
	fresh.system.NodeUUIDs = nodes[:len(s.system.NodeUUIDs)]
	for _, t := range saved.Tenants {
		fresh.tenants.add(t)
		fresh.saw(t.Seq)
	}
	for _, i := range saved.Initiators {
		if t, ok := fresh.tenants.get(i.Tenant); ok {
			t.initiators.add(i)
			fresh.count.initiators++
			fresh.saw(i.Seq)
		}
	}
	for _, docs := range saved.Documents {
		for _, d := range docs.Rows {
			fresh.docs(docs.Tenant, docs.Path).add(d)
			fresh.saw(d.Seq)
		}
	}
	return fresh
}

// saw makes later rows follow this one.
func (s *state) saw(seq uint64) { s.seq = max(s.seq, seq) }

func (a *Array) loadApps() ([]*appInstance, error) {
	files, err := filepath.Glob(filepath.Join(a.disk.dir, appsDir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	apps := make([]*appInstance, 0, len(files))
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the state: %w", err)
		}
		app := &appInstance{}
		if err := json.Unmarshal(raw, app); err != nil {
			return nil, fmt.Errorf("read the state in %s: %w", file, err)
		}
		apps = append(apps, app)
	}
	slices.SortFunc(apps, func(x, y *appInstance) int {
		if x.Seq < y.Seq {
			return -1
		}
		return 1
	})
	return apps, nil
}

// adopt puts a saved app instance into the state.
func (a *Array) adopt(app *appInstance) error {
	t, ok := a.state.tenants.get(app.Tenant)
	if !ok {
		return fmt.Errorf("app_instance %s belongs to tenant %s, which the state does not have", app.Name, app.Tenant)
	}
	for _, si := range app.Storage {
		si.app, si.available = app, a.started
		for _, v := range si.Volumes {
			v.si = si
			if _, err := os.Stat(a.volumeFile(v)); err != nil {
				return fmt.Errorf("the backing file of app_instance %s is missing, bring it back or remove %s: %w",
					app.Name, a.disk.appFile(app), err)
			}
			v.Snapshots = a.whole(v.Snapshots, v)
			a.state.saw(uint64(v.Node))
		}
		a.state.saw(uint64(si.Node))
	}
	app.Snapshots = a.whole(app.Snapshots, app.volumes()...)
	app.saved = true
	a.state.saw(app.Seq)
	a.state.insertApp(t, app)
	return nil
}

// whole leaves out the snapshots that were being copied when the process ended: a
// copy has its name only when it is complete.
func (a *Array) whole(list []*snapshot, volumes ...*volume) []*snapshot {
	return slices.DeleteFunc(list, func(s *snapshot) bool {
		return slices.ContainsFunc(volumes, func(v *volume) bool {
			if _, had := s.Sizes[v.UUID]; s.Sizes != nil && !had {
				return false // made after the snapshot
			}
			_, err := os.Stat(a.snapshotFile(v, s))
			return errors.Is(err, fs.ErrNotExist)
		})
	})
}

// Orphans are backing files that belong to nothing in the state: a crash left
// them. They are reported and never removed by themselves.
func (a *Array) Orphans() ([]string, error) {
	if a.disk == nil {
		return nil, nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	known := map[string]bool{}
	for _, v := range a.state.volumes {
		known[a.volumeFile(v)] = true
		for _, s := range slices.Concat(v.Snapshots, v.si.app.Snapshots) {
			known[a.snapshotFile(v, s)] = true
		}
	}
	var orphans []string
	for _, dir := range []string{"volumes", "snapshots"} {
		entries, err := os.ReadDir(filepath.Join(a.disk.dir, dir))
		if err != nil {
			return nil, fmt.Errorf("look for orphans: %w", err)
		}
		for _, e := range entries {
			file := filepath.Join(a.disk.dir, dir, e.Name())
			if !known[file] && !known[strings.TrimSuffix(file, ".part")] {
				orphans = append(orphans, file)
			}
		}
	}
	return orphans, nil
}
