package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// Guard stands between a node's plugin and its end.
type Guard struct {
	API    *Client
	Node   string
	Driver string
	Taints []string      // that announce a node's end, see Leaving
	Every  time.Duration // between two looks
}

// answerTime is how long the API may be out of reach before Hold gives up finding
// out whether the node leaves. A plain upgrade of the plugin must not hang on it.
const answerTime = 15 * time.Second

// Hold returns at once when the node stays: then the plugin may end, its volumes go
// on without it. While the node leaves, Hold returns when the kubelet has given back
// the last of the driver's volumes, or with an error that names them when ctx ends:
// without the plugin nobody could unstage them, and their pods would wait six
// minutes elsewhere (FM 37).
func (g Guard) Hold(ctx context.Context) error {
	log := klog.FromContext(ctx)
	var volumes []string
	heard := time.Now()
	told := ""
	for {
		node, err := g.API.Node(ctx, g.Node)
		switch {
		case errors.Is(err, ErrNotFound):
			log.Info("The node is gone from the API: nothing to wait for", "node", g.Node)
			return nil
		case err == nil:
			heard = time.Now()
			why := node.Leaving(g.Taints)
			volumes = node.Volumes(g.Driver)
			if why == "" || len(volumes) == 0 {
				log.Info("Nothing to wait for", "node", g.Node, "leaving", why, "volumes", len(volumes))
				return nil
			}
			if now := fmt.Sprint(volumes); now != told {
				log.Info("Waiting for volumes to leave this node", "node", g.Node, "because", why, "volumes", volumes)
				told = now
			}
		case ctx.Err() == nil && told == "" && time.Since(heard) > answerTime:
			return fmt.Errorf("find out whether node %s leaves: %w", g.Node, err)
		case ctx.Err() == nil:
			log.Error(err, "The API does not say whether the node leaves, asking again")
		}
		if !g.pause(ctx) {
			return g.overdue(ctx, volumes, err)
		}
	}
}

func (g Guard) overdue(ctx context.Context, volumes []string, last error) error {
	if len(volumes) == 0 {
		return errors.Join(fmt.Errorf("wait for the volumes of node %s: %w", g.Node, context.Cause(ctx)), last)
	}
	return fmt.Errorf("node %s leaves with %d volumes still in use: %s: %w: pods on it had no time to end; "+
		"their volumes come up elsewhere once the node is known to be down", g.Node, len(volumes), strings.Join(volumes, ", "), context.Cause(ctx))
}

// Admit removes the taint that kept pods from the node until its plugin works. It
// returns when the kubelet has registered the driver and the taint is gone.
func (g Guard) Admit(ctx context.Context, taint string) error {
	log := klog.FromContext(ctx)
	told := ""
	for {
		done, err := g.admit(ctx, taint)
		if done {
			log.Info("The driver is registered and the taint is not there", "node", g.Node, "taint", taint)
			return nil
		}
		if err != nil && ctx.Err() == nil && err.Error() != told {
			log.Error(err, "The taint stays for now", "node", g.Node, "taint", taint)
			told = err.Error()
		}
		if !g.pause(ctx) {
			return fmt.Errorf("remove the taint %s of node %s: %w", taint, g.Node, context.Cause(ctx))
		}
	}
}

func (g Guard) admit(ctx context.Context, taint string) (bool, error) {
	registered, err := g.API.Registered(ctx, g.Node, g.Driver)
	if err != nil || !registered {
		return false, err
	}
	node, err := g.API.Node(ctx, g.Node)
	if err != nil {
		return false, err
	}
	err = g.API.RemoveTaint(ctx, node, taint)
	return err == nil, err
}

// pause returns false when ctx ended instead.
func (g Guard) pause(ctx context.Context) bool { return sleep(ctx, g.Every) }

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
