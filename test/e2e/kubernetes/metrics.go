package kubernetes

import (
	"bufio"
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Spent is how long calls of the driver took, by the name of the call, since the cluster began.
type Spent map[string]Calls

// Calls are calls of one name.
type Calls struct {
	Calls   int
	Seconds float64
}

// Minus is what was added since an earlier time.
func (c Calls) Minus(before Calls) Calls {
	return Calls{c.Calls - before.Calls, c.Seconds - before.Seconds}
}

// Each is the mean of one call in seconds.
func (c Calls) Each() float64 { return c.Seconds / float64(max(1, c.Calls)) }

// Spent asks those who call the driver, the sidecars and the kubelets, for their metrics of it.
func (c *Cluster) Spent(ctx context.Context) (Spent, error) {
	all := Spent{}
	pods, err := c.Kubectl(ctx, "get", "pods", "--namespace="+Namespace, "--selector=app.kubernetes.io/component=controller", "-o", "name")
	if err != nil {
		return nil, err
	}
	var pages []string
	for _, pod := range strings.Fields(pods) {
		for _, port := range []string{"8081", "8082"} { // provisioner and attacher
			pages = append(pages, fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%s/proxy/metrics", Namespace, strings.TrimPrefix(pod, "pod/"), port))
		}
	}
	for _, w := range c.Workers {
		pages = append(pages, "/api/v1/nodes/"+w.Name+"/proxy/metrics")
	}
	for _, page := range pages {
		text, err := c.Kubectl(ctx, "get", "--raw", page)
		if err != nil {
			return nil, err
		}
		if err := all.add(text); err != nil {
			return nil, fmt.Errorf("%s: %w", page, err)
		}
	}
	return all, nil
}

// operation is a line of csi_sidecar_operations_seconds or the kubelet's csi_operations_seconds, whichever
// way the call ended.
var operation = regexp.MustCompile(`^csi_(?:sidecar_)?operations_seconds_(sum|count)\{.*method_name="/csi\.v1\.\w+/(\w+)".*\} (\S+)$`)

func (s Spent) add(text string) error {
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		found := operation.FindStringSubmatch(lines.Text())
		if found == nil || !strings.Contains(lines.Text(), `driver_name="`+Driver+`"`) {
			continue
		}
		value, err := strconv.ParseFloat(found[3], 64)
		if err != nil {
			return err
		}
		calls := s[found[2]]
		if found[1] == "sum" {
			calls.Seconds += value
		} else {
			calls.Calls += int(value)
		}
		s[found[2]] = calls
	}
	return nil
}
