using System;
using System.IO;
using System.Threading;
using Everscene.Editor;
using UnityEditor;
using UnityEngine;
using static Everscene.Play.Player;

namespace Everscene.Play
{
    /// <summary>The Editor's half: what the inspector and the window draw, and the sidecar as a process.</summary>
    static class EditorPlay
    {
        static UnityEditor.Editor MakeInspector(EversceneStream stream)
        {
            Type type = typeof(EversceneWindow).Assembly.GetType("Everscene.Editor.EversceneStreamEditor");
            var inspector = (UnityEditor.Editor)Activator.CreateInstance(type);
            inspector.target = stream;
            return inspector;
        }

        static bool Drawn(string words) => EditorGUILayout.Drawn.Exists(line => line.Contains(words));

        public static void Inspector(string[] arguments)
        {
            var stream = new GameObject().AddComponent<EversceneStream>();
            Set(stream, "endpoint", arguments[1]);
            UnityEditor.Editor inspector = MakeInspector(stream);
            inspector.OnInspectorGUI();
            Must(Drawn("State: not running"), "it says that nothing runs");
            Must(!inspector.HasPreviewGUI(), "no preview before a frame");
            Call(stream, "OnEnable");
            Until(() => stream.Frame.Number > 0 && stream.IsConnected, "a frame", UpdateOf(stream));
            EditorGUILayout.Drawn.Clear();
            inspector.OnInspectorGUI();
            foreach (string words in new[] { "State: connected", "Stream: pattern, 256×144", "weather", "Intensity~0.7", "Frame age: p50" })
                Must(Drawn(words), words + " in " + string.Join("; ", EditorGUILayout.Drawn));
            Must(inspector.HasPreviewGUI() && inspector.GetInfoString().Contains("256×144"), "a preview");
            inspector.OnPreviewGUI(new Rect(0, 0, 100, 100), new GUIStyle());
            GUILayout.Pressed = "Storm";
            inspector.OnInspectorGUI();
            Must(GUILayout.Pressed == null, "there is a button for the storm");
            Until(() => stream.Prompt.Contains("storm"), "the storm", UpdateOf(stream));
            EditorGUILayout.Drawn.Clear();
            inspector.OnInspectorGUI();
            Must(Drawn("storm: applied in frame"), "its receipt is shown");
            Call(stream, "OnDisable");
        }

        public static void Window(string[] arguments)
        {
            var window = EditorWindow.GetWindow<EversceneWindow>("Everscene");
            Set(window, "endpoint", arguments[1]);
            Call(window, "OnEnable");
            GUILayout.Pressed = "Connect";
            Call(window, "OnGUI");
            Action tick = () => { EditorApplication.timeSinceStartup += 0.1; EditorApplication.update(); };
            Until(() => { EditorGUILayout.Drawn.Clear(); Call(window, "OnGUI"); return Drawn("fps published"); }, "the server's figures", tick);
            GUILayout.Pressed = "Night";
            Call(window, "OnGUI");
            Until(() => { EditorGUILayout.Drawn.Clear(); Call(window, "OnGUI"); return Drawn("unity editor: night"); }, "its own event", tick);
            object client = Get(window, "client"), control = Get(client, "control");
            var threads = new[] { (Thread)Get(control, "listener"), (Thread)Get(control, "sender"), (Thread)Get(Get(client, "frames"), "thread") };
            Must(Array.TrueForAll(threads, one => one.IsAlive), "its three threads run");
            AssemblyReloadEvents.Reload();
            Thread.Sleep(100);
            int ended = Array.FindAll(threads, one => !one.IsAlive).Length;
            Must(ended == 3, "a reload of the domain ends its three threads, not " + ended);
            Call(window, "OnDisable");
        }

        public static void BindingDrawer(string[] arguments)
        {
            var binding = new SerializedProperty { isExpanded = true };
            foreach (System.Reflection.FieldInfo field in typeof(EventBinding).GetFields()) binding.Fields[field.Name] = new SerializedProperty();
            var stream = new GameObject().AddComponent<EversceneStream>();
            Set(stream, "endpoint", arguments[1]);
            Call(stream, "OnEnable");
            Until(() => stream.IsConnected, "a connection", UpdateOf(stream));
            binding.Fields["eventName"].stringValue = "storm";
            binding.Fields["eventName"].serializedObject.targetObject = new EversceneEvents { Stream = stream };
            Type type = typeof(EversceneWindow).Assembly.GetType("Everscene.Editor.EventBindingDrawer");
            var drawer = (PropertyDrawer)Activator.CreateInstance(type);
            float plain = drawer.GetPropertyHeight(binding, new GUIContent("0"));
            drawer.OnGUI(new Rect(0, 0, 100, 100), binding, new GUIContent("0"));
            Must(EditorGUI.Popups[0].Contains("storm,rain,snow"), EditorGUI.Popups[0]);
            Must(binding.Fields["eventName"].stringValue == "storm", "the choice stands");
            foreach (EventTrigger trigger in Enum.GetValues(typeof(EventTrigger)))
            {
                binding.Fields["trigger"].enumValueIndex = (int)trigger;
                Must(drawer.GetPropertyHeight(binding, new GUIContent("0")) >= plain, "fields of " + trigger);
                drawer.OnGUI(new Rect(0, 0, 100, 100), binding, new GUIContent("0"));
            }
            binding.isExpanded = false;
            Must(drawer.GetPropertyHeight(binding, new GUIContent("0")) == 18, "closed it is one line");
            Call(stream, "OnDisable");
        }

        public static void ProcessOutlivesUsAndStops(string[] arguments)
        {
            string log = Path.Combine(Path.GetTempPath(), "everscene sidecar's " + System.Diagnostics.Process.GetCurrentProcess().Id, "log");
            int id = SidecarProcess.Start("/bin/sh", "-c 'trap \"echo bye; exit\" TERM; echo hello; while :; do sleep 0.05; done'", log);
            Until(() => SidecarProcess.Tail(log, 1000).Contains("\nhello"), "its words");
            Must(SidecarProcess.IsRunning(id), "it runs");
            Must(SidecarProcess.Tail(log, 4).Length <= 4, "only the end is read");
            SidecarProcess.Stop(id);
            Must(!SidecarProcess.IsRunning(id), "it has stopped");
            Must(SidecarProcess.Tail(log, 1000).Contains("\nbye"), "it was asked, not killed");
            Must(!SidecarProcess.IsRunning(0), "no process is no process");
            Directory.Delete(Path.GetDirectoryName(log), true);
        }

        public static void PlayStartsTheSidecarOnce(string[] arguments)
        {
            System.Runtime.CompilerServices.RuntimeHelpers.RunClassConstructor(typeof(Sidecar).TypeHandle);
            Directory.SetCurrentDirectory(arguments[2]);
            Sidecar.Command = "sleep 30 #"; // the arguments are a comment to the shell
            var stream = new GameObject().AddComponent<EversceneStream>();
            Resources.All.Add(stream);
            Set(stream, "endpoint", arguments[1]);
            EditorApplication.Change(PlayModeStateChange.ExitingEditMode);
            Must(!Sidecar.IsRunning, "not unless the component asks for it");
            stream.LaunchInEditor = true;
            EditorApplication.Change(PlayModeStateChange.ExitingEditMode);
            Must(!Sidecar.IsRunning, "not while something listens already");
            Set(stream, "endpoint", "tcp://127.0.0.1:1");
            EditorApplication.Change(PlayModeStateChange.EnteredPlayMode);
            Must(!Sidecar.IsRunning, "not at another time");
            EditorApplication.Change(PlayModeStateChange.ExitingEditMode);
            Must(Sidecar.IsRunning, "now it runs");
            EditorApplication.Quit();
            Must(!Sidecar.IsRunning, "and it goes with the Editor");
        }
    }
}
