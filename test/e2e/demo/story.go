package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/test/e2e/tell"
	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

const (
	volumeBytes = 100 << 30
	dataBytes   = 8 << 20 // what pod 0 writes
)

// story is the demonstration: chapters in order, each real.
type story struct {
	tell     *tell.Teller
	bed      *testbed.Bed
	one, two *testbed.Worker
	volumes  []*testbed.Volume
	checksum string
}

func (s *story) play(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{
		s.introduce, s.provision, s.look, s.write, s.scale, s.move, s.fence, s.tidy,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	s.tell.Ended()
	return nil
}

// shell shows a command and its output on a machine.
func (s *story) shell(ctx context.Context, w *testbed.Worker, command string) (string, error) {
	out, err := w.Shell(ctx, command)
	if err != nil {
		return "", err
	}
	s.tell.Output(w.Name, command, out)
	return string(out), nil
}

// call is one call of the driver, and what to say of it.
type call struct {
	name, what string
	do         func() error
}

// calls makes one call after the other and reports each; the first error ends it.
func (s *story) calls(all ...call) error {
	for _, c := range all {
		began := time.Now()
		if err := c.do(); err != nil {
			return err
		}
		s.tell.Call(c.name, c.what, time.Since(began))
	}
	return nil
}

func (s *story) introduce(ctx context.Context) error {
	for _, w := range []*testbed.Worker{s.one, s.two} {
		s.tell.Say("%s is ready; its node id is its initiator, %s", w.Name, w.ID)
	}
	_, err := s.shell(ctx, s.one, "datera-csi version | head -n 3")
	return err
}

// provision creates and attaches the volumes of a StatefulSet of two.
func (s *story) provision(ctx context.Context) error {
	s.tell.Step("A StatefulSet of two asks for two volumes of 100 GiB with three replicas")
	for i := range 2 {
		if err := s.bringUp(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func claim(i int) string { return fmt.Sprintf("test-petset-%d", i) }
func pod(i int) string   { return fmt.Sprintf("pod-test-petset-%d", i) }

// bringUp makes the volume of pod i and brings it to worker 1.
func (s *story) bringUp(ctx context.Context, i int) error {
	err := s.calls(call{"CreateVolume", claim(i) + ", 100 GiB, replica_count 3", func() error {
		v, err := s.bed.Create(ctx, claim(i), volumeBytes, map[string]string{"replica_count": "3"}, testbed.Mount("xfs"))
		s.volumes = append(s.volumes, v)
		return err
	}})
	if err != nil {
		return err
	}
	return s.bringTo(ctx, i, s.one)
}

func (s *story) bringTo(ctx context.Context, i int, w *testbed.Worker) error {
	v := s.volumes[i]
	var published map[string]string
	return s.calls(
		call{"ControllerPublishVolume", v.ID + " to " + w.Name, func() (err error) {
			published, err = s.bed.Publish(ctx, v, w)
			return err
		}},
		call{"NodeStageVolume", "iSCSI login, mkfs.xfs if empty, mount", func() error { return w.Stage(ctx, v, published) }},
		call{"NodePublishVolume", "bind mount for " + pod(i), func() error { return w.PublishTo(ctx, v, published, pod(i)) }},
	)
}

// look shows the devices as the 2016 article did.
func (s *story) look(ctx context.Context) error {
	s.tell.Step("What the worker sees")
	disks, err := s.shell(ctx, s.one, "lsscsi")
	if err != nil {
		return err
	}
	if !strings.Contains(disks, "DATERA") || !strings.Contains(disks, "IBLOCK") || !strings.Contains(disks, "4.0") {
		return errors.New("lsscsi shows no DATERA IBLOCK 4.0")
	}
	if _, err = s.shell(ctx, s.one, "multipath -ll"); err != nil {
		return err
	}
	mounts, err := s.shell(ctx, s.one, "mount -t xfs | grep kubelet/pods")
	if err != nil {
		return err
	}
	if strings.Count(mounts, "type xfs") != len(s.volumes) {
		return fmt.Errorf("not every volume is mounted as xfs:\n%s", mounts)
	}
	return nil
}

func (s *story) data(i int) string {
	return path.Join(testbed.TargetPath(s.volumes[i], pod(i)), "data")
}

// write is what the pod does; its data is synced, as a database's is.
func (s *story) write(ctx context.Context) error {
	s.tell.Step("Pod 0 writes")
	if _, err := s.one.Shell(ctx, fmt.Sprintf("dd if=/dev/urandom of=%s bs=%d count=1 conv=fsync status=none", s.data(0), dataBytes)); err != nil {
		return err
	}
	sum, err := s.sum(ctx, s.one)
	if err != nil {
		return err
	}
	s.checksum = sum
	s.tell.Say("8 MiB of random data, SHA-256 %s", sum)
	return nil
}

func (s *story) sum(ctx context.Context, w *testbed.Worker) (string, error) {
	out, err := w.Shell(ctx, "sha256sum "+s.data(0))
	sum, _, _ := strings.Cut(string(out), " ")
	return sum, err
}

func (s *story) scale(ctx context.Context) error {
	s.tell.Step("The StatefulSet is scaled to three: the third volume comes to life")
	if err := s.bringUp(ctx, 2); err != nil {
		return err
	}
	_, err := s.shell(ctx, s.one, "df -h -t xfs | grep -E 'Filesystem|kubelet/pods'")
	return err
}

// move is what happens when pod 0 is scheduled to the other worker.
func (s *story) move(ctx context.Context) error {
	s.tell.Step("Pod 0 moves to %s, and its data comes along", s.two.Name)
	v := s.volumes[0]
	err := s.calls(
		call{"NodeUnpublishVolume", claim(0) + " on " + s.one.Name, func() error { return s.one.UnpublishFrom(ctx, v, pod(0)) }},
		call{"NodeUnstageVolume", "unmount, flush, log out", func() error { return s.one.Unstage(ctx, v) }},
		call{"ControllerUnpublishVolume", "the array shows the session gone", func() error { return s.bed.Unpublish(ctx, v, s.one) }},
	)
	if err != nil {
		return err
	}
	if err = s.bringTo(ctx, 0, s.two); err != nil {
		return err
	}
	sum, err := s.sum(ctx, s.two)
	if err != nil {
		return err
	}
	if sum != s.checksum {
		return fmt.Errorf("the data has changed: SHA-256 %s, was %s", sum, s.checksum)
	}
	s.tell.Proved("%s reads SHA-256 %s, the same", s.two.Name, sum)
	return nil
}

// fence shows that a worker without admission gets nowhere, however it tries: by
// the front door of the array, and with a session that it kept.
func (s *story) fence(ctx context.Context) error {
	s.tell.Step("%s can write to it no more", s.one.Name)
	v := s.volumes[0]
	_, err := s.bed.Publish(ctx, v, s.one)
	if status.Code(err) != codes.FailedPrecondition {
		return fmt.Errorf("publishing to a second node answered %w, want FailedPrecondition", err)
	}
	s.tell.Say("ControllerPublishVolume: %s", status.Convert(errors.Unwrap(err)).Message())
	if err := s.frontDoor(ctx); err != nil {
		return err
	}
	return s.keptSession(ctx)
}

// frontDoor logs in by hand to the volume that has moved.
func (s *story) frontDoor(ctx context.Context) error {
	target, err := s.target(ctx, s.volumes[0])
	if err != nil {
		return err
	}
	login := fmt.Sprintf("N='iscsiadm -m node -T %s -p %s:3260'; $N -o new >/dev/null; $N --login 2>&1; echo exit status $?; $N -o delete", target, s.bed.Array.Addr(0))
	out, err := s.one.Shell(ctx, "set +e; "+login)
	if err != nil {
		return err
	}
	s.tell.Output(s.one.Name, "iscsiadm -m node -T "+target+" --login", out)
	if !strings.Contains(string(out), "exit status 24") {
		return errors.New("the array let a worker in that it must not admit")
	}
	s.tell.Proved("the array refuses its login")
	return nil
}

// keptSession takes admission away from a worker that did not let go, as a lost
// node does not: pod 1's volume is unpublished while it is mounted and written to.
func (s *story) keptSession(ctx context.Context) error {
	v := s.volumes[1]
	s.tell.Say("Now %s is lost while pod 1 runs: nothing is unmounted, and its pod starts elsewhere.", s.one.Name)
	err := s.calls(call{"ControllerUnpublishVolume", v.ID + ", still mounted", func() error { return s.bed.Unpublish(ctx, v, s.one) }})
	if err != nil {
		return err
	}
	if err = s.bringTo(ctx, 1, s.two); err != nil {
		return err
	}
	out, err := s.one.Shell(ctx, fmt.Sprintf(
		"set +e; timeout 60 dd if=/dev/zero of=%s bs=4k count=1 conv=fsync 2>&1; echo exit status $?", s.data(1)))
	if err != nil {
		return err
	}
	s.tell.Output(s.one.Name, "dd if=/dev/zero of=.../data bs=4k count=1 conv=fsync", out)
	if strings.Contains(string(out), "exit status 0") {
		return errors.New("a fenced worker wrote to the volume")
	}
	if _, err := s.two.Shell(ctx, "touch "+s.data(1)+" && sync -f "+s.data(1)); err != nil {
		return fmt.Errorf("the new worker cannot write: %w", err)
	}
	s.tell.Proved("%s hears an I/O error, %s writes", s.one.Name, s.two.Name)
	return nil
}

// target is the IQN of a volume, as the array names it.
func (s *story) target(ctx context.Context, v *testbed.Volume) (string, error) {
	var ai struct {
		StorageInstances []struct {
			Access struct {
				IQN string `json:"iqn"`
			} `json:"access"`
		} `json:"storage_instances"`
	}
	if err := s.bed.Array.REST(ctx, "GET", "/app_instances/"+v.ID, nil, &ai); err != nil {
		return "", err
	}
	if len(ai.StorageInstances) != 1 {
		return "", fmt.Errorf("%s has %d storage instances", v.ID, len(ai.StorageInstances))
	}
	return ai.StorageInstances[0].Access.IQN, nil
}

// tidy deletes everything, and looks for what is left.
func (s *story) tidy(ctx context.Context) error {
	s.tell.Step("Everything is deleted")
	if err := s.letGo(ctx); err != nil {
		return err
	}
	for _, v := range s.volumes {
		if err := s.calls(call{"DeleteVolume", v.ID, func() error { return s.bed.Delete(ctx, v) }}); err != nil {
			return err
		}
	}
	left, err := s.bed.Leftovers(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
	s.tell.Proved("the array is empty; no session, disk, map, node entry, record or mount is left on either worker")
	return nil
}

// letGo takes every volume from where it is, worker 1's orphan of pod 1 first: that
// something written there may be lost is told once, as to kubelet, which asks again.
func (s *story) letGo(ctx context.Context) error {
	detach := func(i int, w *testbed.Worker) call {
		return call{"Unpublish, unstage", claim(i) + " on " + w.Name, func() error { return s.bed.Detach(ctx, s.volumes[i], w, pod(i)) }}
	}
	orphan, fenced := s.volumes[1], claim(1)+" on "+s.one.Name+", fenced"
	var told error
	err := s.calls(
		call{"NodeUnpublishVolume", fenced, func() error { return s.one.UnpublishFrom(ctx, orphan, pod(1)) }},
		call{"NodeUnstageVolume", fenced + ": DataLoss", func() error {
			if told = s.one.Unstage(ctx, orphan); status.Code(told) != codes.DataLoss {
				return fmt.Errorf("unstage of a fenced volume answered %v, want DataLoss", status.Code(told))
			}
			return nil
		}},
	)
	if err != nil {
		return err
	}
	s.tell.Proved("kubelet is told once: %s", status.Convert(errors.Unwrap(told)).Message())
	return s.calls(
		call{"NodeUnstageVolume", fenced + ", again", func() error { return s.one.Unstage(ctx, orphan) }},
		detach(0, s.two), detach(1, s.two), detach(2, s.one),
	)
}
