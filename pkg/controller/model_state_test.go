package controller_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/internal/sim"
)

// state is what the array holds of one worker's volumes, flat, so that two states
// can be compared and mixed key by key:
//
//	v/NAME                 size in GiB
//	v/NAME/replicas        number
//	v/NAME/qos             read, write, total IOPS and KiB/s
//	v/NAME/source          volume or snapshot; absent when it began empty
//	v/NAME/template        name; absent when it was made without
//	v/NAME/chap            chap; absent when there is none
//	v/NAME/retain          yes; absent when a deletion is for good
//	v/NAME/node/IQN        admitted
//	v/NAME/session/IQN     logged in
//	v/NAME/snapshot/UUID   there
//	r/NAME                 number of volumes of this name that were deleted and retained
type state map[string]string

func (s state) clone() state { return maps.Clone(s) }

// below are the last parts of the keys below a prefix.
func (s state) below(prefix string) []string {
	var parts []string
	for key := range s {
		if rest, ok := strings.CutPrefix(key, prefix+"/"); ok && !strings.Contains(rest, "/") {
			parts = append(parts, rest)
		}
	}
	slices.Sort(parts)
	return parts
}

func (s state) has(volume string) bool {
	_, ok := s["v/"+volume]
	return ok
}

func (s state) nodes(volume string) []string     { return s.below("v/" + volume + "/node") }
func (s state) snapshots(volume string) []string { return s.below("v/" + volume + "/snapshot") }

// set changes one member of a volume, "" the size itself; an empty value removes it.
func (s state) set(volume, member, value string) {
	key := strings.TrimSuffix("v/"+volume+"/"+member, "/")
	if value == "" {
		delete(s, key)
		return
	}
	s[key] = value
}

func (s state) drop(volume string) {
	maps.DeleteFunc(s, func(key, _ string) bool { return key == "v/"+volume || strings.HasPrefix(key, "v/"+volume+"/") })
}

// between names the keys of s that have neither the value before nor the one after
// an operation, nor one that it may leave when it is cut off.
func (s state) between(before, after state, loose map[string][]string) []string {
	var strange []string
	for key := range keys(s, before, after) {
		if s[key] != before[key] && s[key] != after[key] && !slices.Contains(loose[key], s[key]) {
			strange = append(strange, fmt.Sprintf("%s is %q, was %q and shall be %q", key, s[key], before[key], after[key]))
		}
	}
	slices.Sort(strange)
	return strange
}

func keys(states ...state) map[string]bool {
	all := map[string]bool{}
	for _, s := range states {
		for key := range s {
			all[key] = true
		}
	}
	return all
}

// witness looks at an array past its faults.
type witness struct {
	tb    testing.TB
	array *sim.Array
}

func (w witness) get(path string, query url.Values, into any) {
	w.tb.Helper()
	for range 50 { // another worker may end all sessions at any moment
		login := w.do(http.MethodPut, "/v2.3/login", "", []byte(`{"name":"admin","password":"password"}`))
		var key struct {
			Key string `json:"key"`
		}
		if err := json.Unmarshal(login.Body.Bytes(), &key); err != nil {
			w.tb.Fatal(err)
		}
		res := w.do(http.MethodGet, "/v2.3"+path+"?"+query.Encode(), key.Key, nil)
		if res.Code == http.StatusUnauthorized {
			continue
		}
		var envelope struct {
			Data json.RawMessage `json:"data"`
		}
		err := json.Unmarshal(res.Body.Bytes(), &envelope)
		if err == nil {
			err = json.Unmarshal(envelope.Data, into)
		}
		if err != nil {
			w.tb.Fatalf("%s: %v in %s", path, err, res.Body)
		}
		return
	}
	w.tb.Fatalf("%s: no session lasts", path)
}

func (w witness) do(method, target, token string, body []byte) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, target, bytes.NewReader(body))
	req.Header.Set("Auth-Token", token)
	req.Header.Set("Content-Type", "application/json")
	res := httptest.NewRecorder()
	w.array.Undisturbed().ServeHTTP(res, req)
	return res
}

type named struct {
	Path string `json:"path"`
	ID   string `json:"id"`
}

// found is an app instance as the array shows it.
type found struct {
	Name     string `json:"name"`
	Descr    string `json:"descr"`
	State    string `json:"admin_state"`
	CloneSrc named  `json:"clone_src"`
	Template named  `json:"app_template"`
	Storage  []struct {
		Auth struct {
			Type string `json:"type"`
		} `json:"auth"`
		Access struct {
			IQN string `json:"iqn"`
		} `json:"access"`
		ACL struct {
			Initiators []named `json:"initiators"`
		} `json:"acl_policy"`
		Active  []string `json:"active_initiators"`
		Volumes []struct {
			Size      int            `json:"size"`
			Replicas  int            `json:"replica_count"`
			QoS       map[string]any `json:"performance_policy"`
			Snapshots []struct {
				UUID string `json:"uuid"`
			} `json:"snapshots"`
		} `json:"volumes"`
	} `json:"storage_instances"`
}

// observe reads the volumes whose names begin with prefix.
func (w witness) observe(prefix string) state {
	w.tb.Helper()
	var apps []found
	w.get("/app_instances", url.Values{"limit": {"1000"}, "filter": {"match(name,(RETAINED-[0-9]+-)?" + prefix + ".*)"}}, &apps)
	s, retired := state{}, map[string]int{}
	for _, a := range apps {
		if name := retiredFrom(a.Name); name != "" {
			if a.State != "offline" || !strings.Contains(a.Descr, "was "+name+" -- ") {
				w.tb.Errorf("%s is retained %s, and described by %q", a.Name, a.State, a.Descr)
			}
			retired[name]++
			s["r/"+name] = fmt.Sprint(retired[name])
			continue
		}
		if s.has(a.Name) {
			w.tb.Errorf("two app instances are called %s", a.Name)
		}
		if len(a.Storage) != 1 || len(a.Storage[0].Volumes) != 1 {
			w.tb.Errorf("%s is not one volume", a.Name)
			continue
		}
		si, v := a.Storage[0], a.Storage[0].Volumes[0]
		s.set(a.Name, "", fmt.Sprint(v.Size))
		s.set(a.Name, "replicas", fmt.Sprint(v.Replicas))
		s.set(a.Name, "qos", limits(v.QoS))
		switch {
		case strings.Contains(a.CloneSrc.Path, "/snapshots/"):
			s.set(a.Name, "source", "snapshot")
		case a.CloneSrc.Path != "":
			s.set(a.Name, "source", "volume")
		}
		s.set(a.Name, "template", a.Template.Path[strings.LastIndex(a.Template.Path, "/")+1:])
		s.set(a.Name, "chap", strings.TrimPrefix(si.Auth.Type, "none"))
		if strings.HasSuffix(a.Descr, "retain-offline") {
			s.set(a.Name, "retain", "yes")
		}
		for _, i := range si.ACL.Initiators {
			s.set(a.Name, "node/"+strings.TrimPrefix(i.Path, "/initiators/"), "admitted")
		}
		for _, iqn := range si.Active {
			s.set(a.Name, "session/"+iqn, "logged in")
		}
		for _, snap := range v.Snapshots {
			s.set(a.Name, "snapshot/"+snap.UUID, "there")
		}
	}
	return s
}

// retiredFrom is what a retained app instance was called; "" for another one.
func retiredFrom(name string) string {
	rest, ok := strings.CutPrefix(name, "RETAINED-")
	if !ok {
		return ""
	}
	_, was, _ := strings.Cut(rest, "-")
	return was
}

// target is the IQN of a volume; "" if there is none.
func (w witness) target(name string) string {
	w.tb.Helper()
	var apps []found
	w.get("/app_instances", url.Values{"filter": {"name=" + name}}, &apps)
	if len(apps) != 1 {
		return ""
	}
	return apps[0].Storage[0].Access.IQN
}

// limits render a performance policy; none is no limit at all.
func limits(policy map[string]any) string {
	var parts []string
	for _, key := range []string{"read_iops_max", "write_iops_max", "total_iops_max", "read_bandwidth_max", "write_bandwidth_max", "total_bandwidth_max"} {
		n, _ := policy[key].(float64)
		parts = append(parts, fmt.Sprint(n))
	}
	return strings.Join(parts, " ")
}
