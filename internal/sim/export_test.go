package sim_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// plane is a data plane that only remembers what it is told.
type plane struct {
	mu       sync.Mutex
	targets  map[string]sim.Target
	sessions map[string][]string
	fail     error
	refuses  string // a target
}

func newPlane() *plane {
	return &plane{targets: map[string]sim.Target{}, sessions: map[string][]string{}}
}

func (p *plane) Apply(_ context.Context, t sim.Target) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return p.fail
	}
	if t.IQN == p.refuses {
		return errors.New("busy")
	}
	p.targets[t.IQN] = t
	return nil
}

func (p *plane) Remove(_ context.Context, iqn string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.targets, iqn)
	return p.fail
}

func (p *plane) Sessions(iqn string) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions[iqn], p.fail
}

func (p *plane) Targets() ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var iqns []string
	for iqn := range p.targets {
		iqns = append(iqns, iqn)
	}
	return iqns, nil
}

func (p *plane) get(t *testing.T, iqn string) sim.Target {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	target, ok := p.targets[iqn]
	if !ok {
		t.Fatalf("target %s is not shown; shown are %v", iqn, p.targets)
	}
	return target
}

func (p *plane) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

const demoStorage = "/app_instances/demo/storage_instances/storage-1"

func TestDataPlaneFollowsEveryChange(t *testing.T) {
	p, dir := newPlane(), t.TempDir()
	c := dial(t, simtest.Start(t, inDir(dir), func(cfg *sim.Config) { cfg.Exporter = p }))
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	made := c.data("POST", "/app_instances", simple("demo", 5))
	target := at(t, made, "storage_instances", 0, "access", "iqn").(string)
	serial := at(t, made, "storage_instances", 0, "volumes", 0, "uuid").(string)
	if at(t, made, "storage_instances", 0, "op_state") != "available" {
		t.Errorf("op_state after the export is %v", at(t, made, "storage_instances", 0, "op_state"))
	}
	got := p.get(t, target)
	want := []sim.LUN{{Serial: serial, File: dir + "/volumes/" + serial + ".img", Bytes: 5 << 30}}
	if diff := cmp.Diff(want, got.LUNs); diff != "" {
		t.Error(diff)
	}
	if len(got.Portals) != 2 || got.Portals[0].String() != "172.28.0.9:3260" || got.AllowAll || len(got.Initiators) != 0 {
		t.Errorf("target is %+v", got)
	}
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	c.data("PUT", demoStorage+"/acl_policy/initiators", m{"path": "/initiators/" + iqn, "op": "add"})
	c.data("PUT", demoStorage+"/auth", m{"type": "chap", "target_user_name": "user", "target_pswd": "secretsecret"})
	c.data("PUT", demoVolume, m{"size": 6})
	got = p.get(t, target)
	if !slices.Equal(got.Initiators, []string{iqn}) || got.Auth.TargetPassword != "secretsecret" || got.LUNs[0].Bytes != 6<<30 {
		t.Errorf("target is %+v", got)
	}
	c.data("PUT", demoStorage+"/acl_policy/initiators", m{"path": "/initiators/" + iqn, "op": "remove"})
	if got := p.get(t, target); len(got.Initiators) != 0 {
		t.Errorf("after revoking: %v", got.Initiators)
	}
	c.data("PUT", "/app_instances/demo", m{"admin_state": "offline"})
	if left, _ := p.Targets(); len(left) != 0 {
		t.Errorf("offline and still shown: %v", left)
	}
	c.data("PUT", "/app_instances/demo", m{"admin_state": "online"})
	p.get(t, target)
	c.data("DELETE", "/app_instances/demo", m{"force": true})
	if left, _ := p.Targets(); len(left) != 0 {
		t.Errorf("deleted and still shown: %v", left)
	}
}

func TestSessionsComeFromTheDataPlane(t *testing.T) {
	p := newPlane()
	c := dial(t, simtest.Start(t, inDir(t.TempDir()), func(cfg *sim.Config) { cfg.Exporter = p }))
	target := at(t, c.data("POST", "/app_instances", simple("demo", 5)), "storage_instances", 0, "access", "iqn").(string)
	p.set(func() { p.sessions[target] = []string{"iqn.2001-01.a:b", "iqn.2001-01.a:b"} })
	if got := at(t, c.data("GET", demoStorage, nil), "active_initiators").([]any); len(got) != 1 {
		t.Errorf("active_initiators is %v", got)
	}
	c.refused(400, "InvalidRequestError", "PUT", "/app_instances/demo", m{"admin_state": "offline"})
	p.set(func() { p.fail = errors.New("configfs is gone") })
	c.refused(500, "InternalError", "GET", "/app_instances/demo", nil)
}

func TestDataPlaneThatFailedIsTriedAgain(t *testing.T) {
	p := newPlane()
	c := dial(t, simtest.Start(t, inDir(t.TempDir()), func(cfg *sim.Config) { cfg.Exporter = p }))
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	target := at(t, c.data("POST", "/app_instances", simple("demo", 5)), "storage_instances", 0, "access", "iqn").(string)
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	acl := demoStorage + "/acl_policy/initiators"
	c.data("PUT", acl, m{"path": "/initiators/" + iqn, "op": "add"})
	p.set(func() { p.fail = errors.New("busy") })
	c.refused(500, "InternalError", "PUT", acl, m{"path": "/initiators/" + iqn, "op": "remove"})
	p.shows(t, c, target)
	p.set(func() { p.fail = nil })
	c.data("GET", demoStorage, nil)
	if got := p.get(t, target); len(got.Initiators) != 0 {
		t.Errorf("still admitted: %v", got.Initiators)
	}
}

// shows insists on the array not telling who has access while the target itself says
// otherwise.
func (p *plane) shows(t *testing.T, c *caller, target string) {
	t.Helper()
	if got := p.get(t, target); len(got.Initiators) != 1 {
		t.Errorf("the target admits %v", got.Initiators)
	}
	for _, path := range []string{"/app_instances", "/app_instances/demo", demoStorage, demoStorage + "/acl_policy",
		demoStorage + "/acl_policy/initiators", demoStorage + "/acl_policy/initiator_groups"} {
		c.refused(500, "InternalError", "GET", path, nil)
	}
}

func TestChangesThatAreNotOnDiskAreNotShown(t *testing.T) {
	p, dir := newPlane(), t.TempDir()
	c := dial(t, simtest.Start(t, inDir(dir), func(cfg *sim.Config) { cfg.Exporter = p }))
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	target := at(t, c.data("POST", "/app_instances", simple("demo", 5)), "storage_instances", 0, "access", "iqn").(string)
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	acl := demoStorage + "/acl_policy/initiators"
	c.data("PUT", acl, m{"path": "/initiators/" + iqn, "op": "add"})
	back := away(t, filepath.Join(dir, "app_instances"))
	c.refused(500, "InternalError", "PUT", acl, m{"path": "/initiators/" + iqn, "op": "remove"})
	p.shows(t, c, target)
	back()
	c.data("GET", demoStorage, nil)
	if got := p.get(t, target); len(got.Initiators) != 0 {
		t.Errorf("still admitted: %v", got.Initiators)
	}
	files, err := filepath.Glob(filepath.Join(dir, "app_instances", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("app instances on disk: %v, %v", files, err)
	}
	if raw, err := os.ReadFile(files[0]); err != nil || strings.Contains(string(raw), iqn) {
		t.Errorf("on disk the host is still admitted: %s, %v", raw, err)
	}
}

// An initiator that goes is cut off from every target, also behind one that fails.
func TestATargetThatFailsDoesNotHoldUpOthers(t *testing.T) {
	p := newPlane()
	c := dial(t, simtest.Start(t, inDir(t.TempDir()), func(cfg *sim.Config) { cfg.Exporter = p }))
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	for _, name := range []string{"demo", "other", "third"} {
		c.data("POST", "/app_instances", simple(name, 1))
		c.data("PUT", "/app_instances/"+name+"/storage_instances/storage-1/acl_policy/initiators", m{"path": "/initiators/" + iqn, "op": "add"})
	}
	p.set(func() { p.refuses = slices.Sorted(maps.Keys(p.targets))[0] })
	c.refused(500, "InternalError", "DELETE", "/initiators/"+iqn, nil)
	shut := 0
	p.set(func() {
		for _, target := range p.targets {
			if len(target.Initiators) == 0 {
				shut++
			}
		}
	})
	if shut != 2 {
		t.Errorf("%d of 2 healthy targets have shut the initiator out", shut)
	}
}

func TestStartBringsTheDataPlaneInLine(t *testing.T) {
	p, dir := newPlane(), t.TempDir()
	withPlane := func(cfg *sim.Config) { cfg.Exporter = p }
	s := simtest.Start(t, inDir(dir), withPlane)
	c := dial(t, s)
	target := at(t, c.data("POST", "/app_instances", simple("demo", 5)), "storage_instances", 0, "access", "iqn").(string)
	if err := s.Array.Close(); err != nil {
		t.Fatal(err)
	}
	p.set(func() {
		delete(p.targets, target)
		p.targets["iqn.2013-05.com.daterainc:tc:01:sn:00000000000000ff"] = sim.Target{}
	})
	s = simtest.Start(t, inDir(dir), withPlane)
	if err := s.Array.BringUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.get(t, target)
	if left, _ := p.Targets(); len(left) != 1 {
		t.Errorf("shown are %v", left)
	}
}

// One target that cannot be shown keeps neither the array nor the others down. What
// an earlier process left of it may still let somebody in.
func TestATargetThatCannotBeShownDoesNotStopTheStart(t *testing.T) {
	for _, left := range []bool{false, true} {
		p, dir := newPlane(), t.TempDir()
		s := simtest.Start(t, inDir(dir), func(cfg *sim.Config) { cfg.Exporter = p })
		c := dial(t, s)
		var targets []string
		for _, name := range []string{"demo", "other"} {
			made := c.data("POST", "/app_instances", simple(name, 5))
			targets = append(targets, at(t, made, "storage_instances", 0, "access", "iqn").(string))
		}
		if err := s.Array.Close(); err != nil {
			t.Fatal(err)
		}
		if !left {
			p.set(func() { clear(p.targets) })
		}
		var reports []error
		s = simtest.Start(t, inDir(dir), func(cfg *sim.Config) {
			cfg.Exporter, cfg.Report = p, func(err error) { reports = append(reports, err) }
		})
		p.set(func() { p.refuses = targets[0] })
		if err := s.Array.BringUp(t.Context()); err != nil || len(reports) != 1 || !strings.Contains(reports[0].Error(), targets[0]) {
			t.Errorf("got %v, reported was %v", err, reports)
		}
		p.get(t, targets[1])
		c = dial(t, s)
		c.data("GET", "/app_instances/other", nil)
		if left {
			c.refused(500, "InternalError", "GET", demoStorage, nil)
		} else if got := c.data("GET", demoStorage, nil); got["op_state"] != "unavailable" {
			t.Errorf("op_state is %v", got["op_state"])
		}
		p.set(func() { p.refuses = "" })
		if got := c.data("GET", demoStorage, nil); got["op_state"] != "available" {
			t.Errorf("op_state is %v once it can be shown", got["op_state"])
		}
		p.get(t, targets[0])
	}
}

func TestRefusedSecretIsNotRepeated(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", simple("demo", 1))
	const secret = "too long a secret to be one"
	for _, key := range []string{"target_pswd", "initiator_pswd"} {
		chap := m{"type": "mchap", "target_user_name": "user", "target_pswd": "secretsecret",
			"initiator_user_name": "array", "initiator_pswd": "secretsecretback"}
		chap[key] = secret
		answer := fmt.Sprint(c.refused(422, "ValidationFailedError", "PUT", demoStorage+"/auth", chap))
		if strings.Contains(answer, secret) || !strings.Contains(answer, key) {
			t.Errorf("the answer must name %s and not repeat it: %s", key, answer)
		}
	}
}

func TestCHAPThatATargetCannotHoldIsRefused(t *testing.T) {
	c := dial(t, simtest.Start(t, inDir(t.TempDir()), func(cfg *sim.Config) { cfg.Exporter = newPlane() }))
	c.data("POST", "/app_instances", simple("demo", 1))
	for key, value := range map[string]string{
		"target_user_name": "NULL_user", "target_pswd": "NULLsecretsecret", "initiator_user_name": "NULL", "initiator_pswd": "NULLsecretsecret",
	} {
		chap := m{"type": "mchap", "target_user_name": "user", "target_pswd": "secretsecret",
			"initiator_user_name": "array", "initiator_pswd": "secretsecretback"}
		chap[key] = value
		c.refused(422, "ValidationFailedError", "PUT", demoStorage+"/auth", chap)
		c.refused(422, "ValidationFailedError", "PUT", demoStorage, m{"auth": chap})
		plain := dial(t, simtest.Start(t))
		plain.data("POST", "/app_instances", simple("demo", 1))
		plain.data("PUT", demoStorage+"/auth", chap)
	}
	if got := c.data("GET", demoStorage+"/auth", nil)["type"]; got != "none" {
		t.Errorf("type is %v", got)
	}
}
