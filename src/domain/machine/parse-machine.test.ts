import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMachineXml } from "./parse-machine.ts";

/** As libvirt's tools write it, with all that is passed over. */
const FULL = `<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name>
  <uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
  <title>The web &amp; more</title>
  <metadata><x:os xmlns:x='http://example.org'/></metadata>
  <memory unit='MiB'>512</memory>
  <currentMemory unit='KiB'>524288</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <resource><partition>/machine</partition></resource>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <kernel>/boot/vmlinuz</kernel>
    <initrd>/boot/initrd</initrd>
    <cmdline>console=ttyS0 root=/dev/vda</cmdline>
    <boot dev='hd'/>
  </os>
  <features><acpi/><apic/><vmport state='off'/></features>
  <cpu mode='host-passthrough' check='none' migratable='on'/>
  <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <pm><suspend-to-mem enabled='no'/></pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap' error_policy='stop' rerror_policy='stop'/>
      <source file='/images/a &amp; b.qcow2' index='1'/>
      <backingStore type='file'><format type='raw'/><source file='/images/debian.raw'/></backingStore>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
      <boot order='1'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='writeback'/>
      <source protocol='nbd' name='data'><host transport='unix' socket='/run/data.sock'/></source>
      <target dev='vdc'/>
      <readonly/>
    </disk>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='usb' index='0' model='none'/>
    <serial type='file'><source path='/var/log/web.log'/><target type='isa-serial' port='0'><model name='isa-serial'/></target></serial>
    <console type='file'><source path='/var/log/web.log'/><target type='serial' port='0'/></console>
    <input type='mouse' bus='ps2'/>
    <memballoon model='none'/>
    <audio id='1' type='none'/>
  </devices>
  <qemu:commandline><qemu:arg value='-nic'/><qemu:arg value='user'/></qemu:commandline>
</domain>`;

test("a machine with all that can be said of it", () => {
  assert.deepEqual(parseMachineXml(FULL), {
    ...{ name: "web", uuid: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0", accelerator: "kvm", memory: 2 ** 29, cpus: 2 },
    ...{ arch: "x86_64", machine: "pc-q35-7.2", kernel: "/boot/vmlinuz", initrd: "/boot/initrd" },
    ...{
      cmdline: "console=ttyS0 root=/dev/vda",
      emulator: "/usr/bin/qemu-system-x86_64",
      serialLog: "/var/log/web.log",
    },
    disks: [
      {
        ...{ target: "vda", alias: "virtio-disk0", readOnly: false, bootIndex: 1 },
        source: { kind: "image", path: "/images/a & b.qcow2", format: "qcow2" },
      },
      {
        ...{ target: "vdc", alias: "virtio-disk2", readOnly: true, direct: false },
        source: { kind: "nbd", socket: "/run/data.sock", exportName: "data" },
      },
    ],
    extraArguments: ["-nic", "user"],
  });
});

const SMALL =
  "<domain type='qemu'><name>a</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os></domain>";

test("a machine of which little is said", () => {
  assert.deepEqual(parseMachineXml(SMALL), {
    ...{ name: "a", accelerator: "tcg", arch: "x86_64", memory: 2 ** 26, cpus: 1, disks: [], extraArguments: [] },
  });
});

test("a console of libvirt's own kind is the machine's own log and socket", () => {
  const devices = "<devices><serial type='pty'><target port='0'/></serial><console type='pty'/></devices>";
  assert.equal(parseMachineXml(SMALL.replace("</domain>", `${devices}</domain>`)).serialLog, undefined);
});

test("a model of CPU, and features of it", () => {
  const features = [
    "<feature policy='require' name='lahf_lm'/><feature name='hypervisor'/>",
    "<feature policy='optional' name='x'/><feature policy='forbid' name='svm'/>",
  ];
  const model = `<cpu mode='custom' match='exact' check='full'><model fallback='forbid'>qemu64</model>${features.join("")}</cpu>`;
  const { cpu } = parseMachineXml(SMALL.replace("</domain>", `${model}</domain>`));
  assert.deepEqual(cpu, { model: "qemu64", features: ["lahf-lm=on", "hypervisor=on", "svm=off"] });
});

const MEMORY: readonly (readonly [text: string, bytes: number])[] = [
  ["<memory unit='b'>1025</memory>", 2048],
  ["<memory unit='KB'>2</memory>", 2048],
  ["<memory unit='GiB'>3</memory>", 3 * 2 ** 30],
  ["<memory unit='TiB'>16</memory>", 2 ** 44],
];

test("memory in libvirt's units", () => {
  for (const [text, bytes] of MEMORY) {
    assert.equal(parseMachineXml(SMALL.replace("<memory>65536</memory>", text)).memory, bytes, text);
  }
});

const inDomain = (more: string): string => SMALL.replace("</domain>", `${more}</domain>`);
const inDevices = (more: string): string => inDomain(`<devices>${more}</devices>`);
const inOs = (more: string): string => SMALL.replace("</os>", `${more}</os>`);
const disk = (more: string, attributes = "type='file'"): string =>
  inDevices(
    `<disk ${attributes}><driver name='qemu' type='qcow2'/><source file='/a'/><target dev='vda' bus='virtio'/>${more}</disk>`,
  );
const memory = (text: string): string => SMALL.replace("<memory>65536</memory>", text);

const UNSUPPORTED: Readonly<Record<string, readonly [xml: string, message: RegExp]>> = {
  "a network": [
    inDevices("<interface type='user'/>"),
    /<interface> in <devices>: <emulator>, .*<disk>.* supported there$/,
  ],
  "a display": [inDevices("<graphics type='vnc'/>"), /<graphics>/],
  "a passed-through device": [inDevices("<hostdev mode='subsystem'/>"), /<hostdev>/],
  "a second serial port": [inDevices("<serial type='pty'/><serial type='pty'/>"), /more than one <serial>/],
  "a serial port over TCP": [inDevices("<serial type='tcp'/>"), /type='tcp' of <serial>: it can be file, pty/],
  "a SCSI controller": [inDevices("<controller type='scsi'/>"), /type='scsi' of <controller>/],
  firmware: [inOs("<loader>/ovmf.fd</loader>"), /<loader> in <os>/],
  "a boot from the network": [inOs("<boot dev='network'/>"), /dev='network' of <boot>: it can be hd/],
  "another architecture": [SMALL.replace("x86_64", "s390x"), /arch='s390x' of <type>: it can be x86_64, aarch64/],
  "a container": [SMALL.replace("hvm", "exe"), /the <type> 'exe'/],
  Xen: [SMALL.replace("'qemu'", "'xen'"), /type='xen' of <domain>: it can be kvm, qemu/],
  "a balloon": [inDomain("<currentMemory>1024</currentMemory>"), /<currentMemory>/],
  "CPUs on some processors": [
    inDomain("<vcpu cpuset='0-1'>2</vcpu>"),
    /the attribute 'cpuset' of <vcpu>: it takes placement/,
  ],
  "a topology of CPUs": [inDomain("<cpu><topology sockets='1'/></cpu>"), /<topology> in <cpu>: <model>, <feature> are/],
  "a host's model of CPU": [
    inDomain("<cpu mode='host-model'/>"),
    /mode='host-model' of <cpu>: it can be custom, host-passthrough/,
  ],
  "a model of the host's CPU": [
    inDomain("<cpu mode='maximum'><model>a</model></cpu>"),
    /a <model> of a <cpu> of the mode maximum/,
  ],
  "I/O threads": [inDomain("<iothreads>2</iothreads>"), /<iothreads>/],
  "another end": [inDomain("<on_reboot>destroy</on_reboot>"), /<on_reboot> 'destroy': it can be restart/],
  "local time": [inDomain("<clock offset='localtime'/>"), /offset='localtime'/],
  "huge pages": [inDomain("<memoryBacking/>"), /<memoryBacking>/],
  "another bus": [disk("").replace("'virtio'", "'scsi'"), /bus='scsi' of <target>: it can be virtio/],
  "a name of another bus": [
    disk("").replace("'vda' bus='virtio'", "'sda'"),
    /target 'sda': a virtio disk is called vda/,
  ],
  "a CD": [disk("", "type='file' device='cdrom'"), /device='cdrom' of <disk>: it can be disk/],
  "a block device": [disk("", "type='block'"), /type='block' of <disk>: it can be file, network/],
  "another format": [disk("").replace("'qcow2'", "'vmdk'"), /type='vmdk' of <driver>: it can be raw, qcow2, qed/],
  "errors for the guest": [
    disk("").replace("name='qemu'", "error_policy='report'"),
    /error_policy='report'.*it can be stop/,
  ],
  "AIO of a kind": [disk("").replace("name='qemu'", "io='native'"), /the attribute 'io' of <driver>/],
  "limits of a disk": [disk("<iotune/>"), /<iotune> in <disk>/],
  encryption: [disk("<encryption format='luks'/>"), /<encryption>/],
  "an export over TCP": [
    inDevices(
      "<disk type='network'><source protocol='nbd' name='x'><host name='h' port='1'/></source><target dev='vda'/></disk>",
    ),
    /the attribute 'name' of <host>/,
  ],
  Ceph: [
    inDevices("<disk type='network'><source protocol='rbd' name='x'/><target dev='vda'/></disk>"),
    /protocol='rbd' of <source>: it can be nbd/,
  ],
};

for (const [what, [xml, message]] of Object.entries(UNSUPPORTED)) {
  test(`${what} is refused by its name`, () => {
    assert.throws(() => parseMachineXml(xml), { code: "unsupported", message });
  });
}

const INVALID: Readonly<Record<string, readonly [xml: string, message: RegExp]>> = {
  "no name": [SMALL.replace("<name>a</name>", ""), /'' is not a name/],
  "a name with a slash": [SMALL.replace(">a<", ">../a<"), /'\.\.\/a' is not a name/],
  "a wrong UUID": [inDomain("<uuid>1</uuid>"), /not a UUID/],
  "no memory": [memory(""), /no <memory>/],
  "a model of CPU with a comma": [inDomain("<cpu><model>a,b</model></cpu>"), /'a,b' is no model of CPU/],
  "a feature with a comma": [inDomain("<cpu><feature name='a,b'/></cpu>"), /'a,b' is no feature/],
  "no amount of memory": [memory("<memory>many</memory>"), /'many', which is not a number/],
  "too much memory": [memory("<memory unit='TiB'>17</memory>"), /at most 16 TiB/],
  "an unknown unit": [memory("<memory unit='MiBi'>1</memory>"), /no unit/],
  "no CPU": [inDomain("<vcpu>0</vcpu>"), /at least 1/],
  "an initrd without a kernel": [inOs("<initrd>/i</initrd>"), /need a <kernel>/],
  "a relative path": [inOs("<kernel>vmlinuz</kernel>"), /<kernel> takes an absolute path, not 'vmlinuz'/],
  "an image of unknown format": [disk("").replace(" type='qcow2'", ""), /does not say of which type its image is/],
  "a disk without a source": [disk("").replace("<source file='/a'/>", ""), /'vda' has no <source>/],
  "an alias with a comma": [disk("<alias name='a,drive=x'/>"), /can't be the alias/],
  "two disks of a name": [disk("").replace(/<disk.*<\/disk>/, "$&$&"), /two disks have the target 'vda'/],
  "no operating system": ["<domain><name>a</name><memory>1024</memory></domain>", /no <os>/],
};

for (const [what, [xml, message]] of Object.entries(INVALID)) {
  test(`a machine with ${what} is refused`, () => {
    assert.throws(() => parseMachineXml(xml), { code: "invalid-argument", message });
  });
}
