package walkthrough

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
)

// where is pod 0's node and identity.
func (s *story) where(ctx context.Context) (node, uid string, err error) {
	out, err := s.cluster.Field(ctx, "{.spec.nodeName} {.metadata.uid}", "pod", first)
	if err != nil {
		return "", "", err
	}
	node, uid, ok := strings.Cut(out, " ")
	if !ok {
		return "", "", fmt.Errorf("%s is nowhere: %q", first, out)
	}
	return node, uid, nil
}

// move is what an administrator does before maintenance: cordon, and delete the pod.
func (s *story) move(ctx context.Context) error {
	s.tell.Step("A pod moves to the other node, and its data comes along")
	var err error
	if s.checksum, err = s.write(ctx, first); err != nil {
		return err
	}
	from, uid, err := s.where(ctx)
	if err != nil {
		return err
	}
	to := s.cluster.Other(from)
	if err = errors.Join(s.shows(ctx, "cordon", from), s.shows(ctx, "delete", "pod", first)); err != nil {
		return err
	}
	began := time.Now()
	if err = s.awaitOn(ctx, to, uid); err != nil {
		return err
	}
	if err = s.shows(ctx, "get", "pod", first, "-o", "wide"); err != nil {
		return err
	}
	s.tell.Say("It was ready %.1f s after the old one had ended.", time.Since(began).Seconds())
	if err = s.same(ctx, to); err != nil {
		return err
	}
	return s.shows(ctx, "uncordon", from)
}

// lose is a node that dies with its pods: without power, and without a word to the array.
func (s *story) lose(ctx context.Context) error {
	node, uid, err := s.where(ctx)
	if err != nil {
		return err
	}
	s.dead = node
	to := s.cluster.Other(node)
	s.tell.Step("%s dies; its pod comes back on %s, and the dead node is fenced", node, to)
	app, err := s.appOf(ctx)
	if err != nil {
		return err
	}
	guest, err := s.cluster.Worker(node)
	if err != nil {
		return err
	}
	if err = s.expectAdmitted(ctx, app, guest.Initiator); err != nil {
		return err
	}
	if err = guest.Kill(); err != nil {
		return err
	}
	s.tell.Say("%s is without power.", node)
	if err = s.awaitNotReady(ctx, node); err != nil {
		return err
	}
	err = errors.Join(
		s.shows(ctx, "get", "nodes"),
		s.shows(ctx, "taint", "node", node, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"))
	if err != nil {
		return err
	}
	began := time.Now()
	if err = s.awaitOn(ctx, to, uid); err != nil {
		return err
	}
	if err = s.shows(ctx, "get", "pods", "-o", "wide"); err != nil {
		return err
	}
	s.tell.Say("%s was ready on %s %.1f s after the taint.", first, to, time.Since(began).Seconds())
	other, err := s.cluster.Worker(to)
	if err != nil {
		return err
	}
	if err = s.expectAdmitted(ctx, app, other.Initiator); err != nil {
		return err
	}
	return s.same(ctx, to)
}

func (s *story) awaitNotReady(ctx context.Context, node string) error {
	return kubernetes.Eventually(ctx, node+" to be lost", patience, func() error {
		ready, err := s.cluster.Field(ctx, `{.status.conditions[?(@.type=="Ready")].status}`, "node", node)
		if err == nil && ready != "Unknown" {
			err = fmt.Errorf("its condition Ready is %q", ready)
		}
		return err
	})
}

// appOf is the app instance of pod 0's volume.
func (s *story) appOf(ctx context.Context) (string, error) {
	volume, err := s.cluster.Field(ctx, "{.spec.volumeName}", "pvc", "data-"+first)
	if err != nil {
		return "", err
	}
	return s.cluster.Field(ctx, "{.spec.csi.volumeHandle}", "pv", volume)
}

// expectAdmitted looks on the array who may use a volume: this initiator and no other.
func (s *story) expectAdmitted(ctx context.Context, app, initiator string) error {
	access, err := s.cluster.AccessOf(ctx, app)
	if err != nil {
		return err
	}
	s.tell.Output("array", "who may use "+app, []byte(strings.Join(access.Initiators, "\n")))
	if !slices.Equal(access.Initiators, []string{initiator}) {
		return fmt.Errorf("the array admits %v to %s, want %s only", access.Initiators, app, initiator)
	}
	return nil
}

// comeBack is the dead node with power again: whatever it tries, the volume is not its own.
func (s *story) comeBack(ctx context.Context) error {
	s.tell.Step("%s comes back and cannot write", s.dead)
	app, err := s.appOf(ctx)
	if err != nil {
		return err
	}
	access, err := s.cluster.AccessOf(ctx, app)
	if err != nil {
		return err
	}
	guest, err := s.cluster.Worker(s.dead)
	if err != nil {
		return err
	}
	if err = guest.Boot(ctx); err != nil {
		return err
	}
	login := fmt.Sprintf("N='iscsiadm -m node -T %s -p %s:3260'; $N -o new >/dev/null; $N --login 2>&1; echo exit status $?; $N -o delete >/dev/null", access.IQN, s.cluster.Array.Addr(0))
	out, err := guest.Shell(ctx, "set +e; "+login)
	if err != nil {
		return err
	}
	s.tell.Output(s.dead, "iscsiadm -m node -T "+access.IQN+" --login", out)
	if !strings.Contains(string(out), "exit status 24") {
		return errors.New("the array let a node in that it must not admit")
	}
	s.tell.Proved("the array refuses its login")
	if err = s.shows(ctx, "taint", "node", s.dead, "node.kubernetes.io/out-of-service-"); err != nil {
		return err
	}
	if err = s.cluster.AwaitReady(ctx); err != nil {
		return err
	}
	return s.shows(ctx, "get", "nodes")
}

// tidy deletes everything, and looks for what is left.
func (s *story) tidy(ctx context.Context) error {
	s.tell.Step("Everything is deleted")
	err := errors.Join(
		s.shows(ctx, "delete", "statefulset,service", set),
		s.shows(ctx, "delete", "pvc", "--selector=app="+set))
	if err != nil {
		return err
	}
	if err = errors.Join(s.gone(ctx, "pods"), s.gone(ctx, "pv"), s.gone(ctx, "volumeattachments")); err != nil {
		return err
	}
	// What the dead node had is nobody's to unstage: its plugin gives it up once the array refuses it.
	err = kubernetes.Eventually(ctx, "nothing to be left", patience, func() error { return s.cluster.NothingLeft(ctx) })
	if err != nil {
		return err
	}
	s.tell.Proved("the array is empty; no session, disk, map, node entry, record or mount is left on either node")
	return nil
}
